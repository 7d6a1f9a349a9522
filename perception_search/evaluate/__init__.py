"""How good a collection is, measured by the protocols that others publish figures of.

annotations   questions with their answers, as data sets lay them out
moments       where in a video: asked within its video and over all
films         videos made of captioned clips, whose right answers are known
captions      pictures and videos with captions, as data sets lay them out
retrieval     pictures and videos by their captions, by PE's protocol and by a search
mine          one's own queries and right answers, exactly and by the index
stored_captions   a collection's captions against those of people, by CIDEr
plm_videobench   answers of a model that saw videos, by PLM-VideoBench's measures
class_names   what public data sets call their classes, and the prompts
class_lists   files that say which media count, and of which class
class_sets    pictures and videos with classes, as data sets lay them out
shards        clip-benchmark's webdataset folders
embeddings    media in a collection, class names as vectors
classification   zero-shot, by PE's protocol
knn           what the nearest neighbours say
model_card    the columns of PE's model cards, all at once
measured_elsewhere   published tables beside results of ours and of others
"""

from perception_search.evaluate.annotations import Annotations, MomentQuery, load_annotations
from perception_search.evaluate.films import (
    Film,
    evaluate_films,
    film_annotations,
    make_films,
    read_clips,
)
from perception_search.evaluate.moments import (
    MomentReport,
    coverage,
    evaluate_moments,
    score_moments,
)

__all__ = [
    "Annotations",
    "Film",
    "MomentQuery",
    "MomentReport",
    "coverage",
    "evaluate_films",
    "evaluate_moments",
    "film_annotations",
    "load_annotations",
    "make_films",
    "read_clips",
    "score_moments",
]
