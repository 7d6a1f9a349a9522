"""`python -m perception_search` is the command line."""

from perception_search.cli import main

main()
