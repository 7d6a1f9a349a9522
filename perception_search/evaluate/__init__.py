"""How good a collection is, measured by the protocols that others publish figures of.

annotations   questions with their answers, as data sets lay them out
moments       where in a video: asked within its video and over all
films         videos made of captioned clips, whose right answers are known
"""
