"""What leaves a moment search: cut files, timelines, chapters, and lines for moment retrieval.

Times of hits count from the first frame that a video shows. What other programs read is given in
their own clock.

    report      what became of each moment; files that replace no other
    copying, encoding, stretch, worker   a stretch of a video becomes a file, in a worker process
    cutting     moments become files in a folder
    timelines   edit lists and OpenTimelineIO
    text        WebVTT and JSON lines
"""

from perception_search.export.cutting import cut
from perception_search.export.report import Exported, ExportReport
from perception_search.export.text import write_jsonl, write_vtt
from perception_search.export.timelines import write_edl, write_otio

__all__ = [
    "ExportReport",
    "Exported",
    "cut",
    "write_edl",
    "write_jsonl",
    "write_otio",
    "write_vtt",
]
