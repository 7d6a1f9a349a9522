"""Collection: a folder that holds the embeddings of pictures and videos, and the way to use it.

Every other way in (command line, page, benchmarks) is a thin caller of these methods.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_search import (
    current_index,
    duplicates,
    manifest,
    media,
    overview,
    removal,
    resegment,
    tables,
    text_cache,
    tuning,
)
from perception_search import index as indexing
from perception_search import ingest as ingesting
from perception_search import purge as purging
from perception_search import reembed as reembedding
from perception_search import verify as verifying
from perception_search.caption_search import By
from perception_search.encoder import Encoder, Identity, load_encoder
from perception_search.encoder.auto import choose_model, notice_for
from perception_search.encoder.protocol import Pooling
from perception_search.errors import CollectionDamaged, CollectionExists, QueryError
from perception_search.frames import Sampling
from perception_search.hits import Hits
from perception_search.ingest import IngestReport
from perception_search.media import absolute
from perception_search.own_encoder import OwnEncoder, check_same_model
from perception_search.query import QueryEncoder
from perception_search.recipe import AUTO, USUAL_RECALL
from perception_search.scoring import Target
from perception_search.searcher import Searcher
from perception_search.segments import Segmentation
from perception_search.snapshot import Snapshot
from perception_search.survey import (
    COMMIT_ROWS,
    COMMIT_SECONDS,
    FileReport,
    Options,
    Survey,
    survey,
)
from perception_search.writer import Writer, create_folder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from perception_search.encoder.tokenizer import LongTexts
    from perception_search.query import Picture
    from perception_search.relevance import OnProgress


class Collection:
    """A folder of embeddings. Make one with `create`, open one with `open`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, encoder: OwnEncoder) -> None:
        self.path = path
        self._encoder = encoder
        self._snapshot = Snapshot.open(path)
        self._searcher = Searcher(
            path,
            encoder.device,
            lambda new: self.encoder_for("text").encode_text(new),
            lambda texts: self._encoder.embed_captions(self._snapshot, texts),
        )

    # Making and opening

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        model: str = "auto",
        encoder: Encoder | None = None,
        weights: str | Path | None = None,
        projection: str | Path | None = None,
        sampling: Sampling | None = None,
        segmentation: Segmentation | None = None,
        pooling: Pooling = "unit-frames",
        device: str = "auto",
        dtype: str = "auto",
    ) -> "Collection":
        """Make an empty collection in the new folder `path`. Model and sampling are fixed now.

        Args:
            path: must not exist, or be an empty folder.
            model: `auto`, `starter` or a PE-Core model's name. `auto` takes PE-Core-L14-336 on a
                GPU and PE-Core-B16-224 on a CPU where its weights can be had, else the starter.
            encoder: your own, instead of a model's name.
            weights: a file or folder of weights, instead of the hub.
            projection: a file that has what `weights` lacks; see `PerceptionEncoder`.
            sampling: which frames of videos are looked at; one a second by default.
            segmentation: the stretches that videos are found by, which `resegment` can change;
                ten seconds by default.
            pooling: how frames become one vector: `unit-frames` counts each once, `raw-frames` by
                its embedding's length.
            device: `auto`, `cpu`, `cuda` or `mps`; not stored.
            dtype: `auto`, `float32`, `bfloat16` or `int8`; not stored.

        Raises:
            CollectionExists: `path` is taken.
            ModelNotFound: no such model.
            WeightsNotFound: the model's weights are nowhere.
            ValueError: the sampling has no grid.
        """
        path = absolute(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CollectionExists(f"{path} exists already; open it, or choose another name.")
        if encoder is None:
            name = choose_model(device, weights) if model == "auto" else model
            encoder = load_encoder(
                name,
                weights=weights,
                projection=projection,
                device=device,
                dtype=dtype,
                pooling=pooling,
            )
        if sampling is not None and sampling.grid == "none":
            raise ValueError("a collection finds moments on a grid; take by-time or keyframes")
        description = manifest.describe(
            encoder.identity.as_dict(),
            asdict(sampling or Sampling()),
            weights=absolute(weights) if weights is not None else None,
            projection=absolute(projection) if projection is not None else None,
        )
        create_folder(path, description, segmentation)
        return cls(path, OwnEncoder(path, encoder))

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        weights: str | Path | None = None,
        projection: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        long_texts: "LongTexts" = "cut",
    ) -> "Collection":
        """Open the collection in `path`. Needs no weights until something must be embedded.

        Args:
            path: the folder.
            encoder: your own, where it was made with one.
            weights: where the model's weights are now, if not where they were.
            projection: where the file is now that has what they lack.
            device: `auto`, `cpu`, `cuda` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `int8`.
            long_texts: what becomes of a text longer than the model reads: `cut`, or `split` into
                pieces whose mean is taken.

        Raises:
            CollectionNotFound: there is none.
            CollectionDamaged: its list of files is damaged in both copies.
        """
        path = absolute(path)
        return cls(path, OwnEncoder(path, encoder, weights, projection, device, dtype, long_texts))

    # What it is

    @property
    def identity(self) -> Identity:
        """Model, weights and preprocessing that every embedding here comes from."""
        return Identity(**self.snapshot.manifest.collection["identity"])

    @property
    def notice(self) -> str | None:
        """What everyone who sees results should know of the model; None for PE."""
        return notice_for(self.identity.model)

    @property
    def sampling(self) -> Sampling:
        """How videos are looked at."""
        return self._snapshot.sampling

    @property
    def segmentation(self) -> Segmentation:
        """The stretches that videos are found by."""
        return self.snapshot.segmentation

    @property
    def snapshot(self) -> Snapshot:
        """The newest version; looks for a newer one each time."""
        if manifest.versions(self.path)[-1] != self._snapshot.version:
            self._snapshot = Snapshot.open(self.path, self._snapshot)
        return self._snapshot

    def encoder_for(self, tower: str) -> Encoder:
        """The collection's encoder, loaded at its first use.

        Args:
            tower: `vision` or `text`: what must agree with the collection.

        Raises:
            CollectionMismatch: the weights or the preprocessing are others.
            WeightsNotFound: there are no weights.
            QueryError: the collection was made without a text tower.
        """
        return self._encoder.for_tower(tower, self.snapshot.manifest.collection)

    def info(self) -> dict[str, Any]:
        """What is in it, by name, ready for JSON. Needs no weights."""
        return overview.overview(self.snapshot, self.notice)

    def items(self, where: str | None = None) -> "pd.DataFrame":
        """The items, one row each, with the columns that `where` sees."""
        from perception_search.where import matching

        shown = self.snapshot.shown_items
        if where is not None:
            shown = shown.filter(matching(shown, where))
        frame: pd.DataFrame = shown.to_pandas()
        return frame

    def failures(self) -> list[FileReport]:
        """Every file that could not be taken in, with outcome and reason, by path."""
        return overview.failures(self.snapshot)

    # Filling it

    def ingest(
        self,
        sources: str | Path | Sequence[str | Path],
        *,
        metadata: "pd.DataFrame | None" = None,
        on_commit: Callable[[Sequence[FileReport]], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        exclude: Sequence[str] = media.DEFAULT_EXCLUDE,
        checksum: bool = False,
        retry_failed: bool = False,
        allow_removals: bool = False,
        num_workers: int | None = None,
        time_limit_seconds: float = 60.0,
        memory_limit_bytes: int | None = None,
        max_pixels: int | None = None,
        fast_jpeg: bool = True,
        video_backend: str = "pyav",
        commit_seconds: float = COMMIT_SECONDS,
        commit_rows: int = COMMIT_ROWS,
    ) -> IngestReport:
        """Bring the collection up to date with files and folders: embed what is new, follow what
        was renamed, hide what is gone. Run it again whenever you like.

        Args:
            sources: files and folders.
            metadata: your own columns, one row a file, keyed by `path`; `where` sees them.
            on_commit: called with the files of each commit, after it is safe on disk.
            on_progress: called with (files done, files in all).
            exclude: patterns of names or relative paths to leave out.
            checksum: read every file, even where size, time and inode are as before.
            retry_failed: try files again that failed before.
            allow_removals: hide vanished files even if more than half of 20 or more are gone.
            num_workers: decoding processes; None for one a core.
            time_limit_seconds: without news from a file after which its decoding is stopped.
            memory_limit_bytes: of one decoding process; None for its default.
            max_pixels: of one picture; None for 50 million.
            fast_jpeg: decode large JPEGs at a fraction of their size, never below twice the need.
            video_backend: `pyav` or `torchcodec`.
            commit_seconds: at most this long between commits.
            commit_rows: at most about this many rows between commits.

        Raises:
            FileNotFoundError: one of `sources` is not there; nothing was changed.
            CollectionLocked: another process is writing.
            CollectionMismatch: the encoder is not the one the collection was made with.
            ValueError: the collection looks at key frames, and torchcodec cannot.
        """
        roots = [absolute(source) for source in _as_list(sources)]
        options = Options(
            checksum=checksum,
            retry_failed=retry_failed,
            allow_removals=allow_removals,
            num_workers=num_workers,
            time_limit_seconds=time_limit_seconds,
            memory_limit_bytes=memory_limit_bytes,
            max_pixels=max_pixels,
            fast_jpeg=fast_jpeg,
            video_backend=video_backend,
            commit_seconds=commit_seconds,
            commit_rows=commit_rows,
        )
        if self.sampling.grid == "keyframes" and video_backend != "pyav":
            raise ValueError(
                f"{self.path} looks at key frames, which {video_backend} cannot; take pyav"
            )
        found = list(media.find(roots, exclude))
        with Writer(self.path, self._snapshot) as writer:
            report = ingesting.ingest(
                writer,
                self._encoder.for_tower("vision", writer.snapshot.manifest.collection),
                found,
                roots,
                options,
                sampling=self.sampling,
                segmentation=writer.snapshot.segmentation,
                metadata=metadata,
                on_commit=on_commit,
                on_progress=on_progress,
            )
            report.index = current_index.keep_up(writer, self.asked())
        return report

    def survey(
        self,
        sources: str | Path | Sequence[str | Path],
        *,
        exclude: Sequence[str] = media.DEFAULT_EXCLUDE,
        checksum: bool = False,
        retry_failed: bool = False,
        allow_removals: bool = False,
    ) -> Survey:
        """What `ingest` would do with `sources`; opens no file and changes nothing."""
        roots = [absolute(source) for source in _as_list(sources)]
        options = Options(
            checksum=checksum, retry_failed=retry_failed, allow_removals=allow_removals
        )
        return survey(self.snapshot, media.find(roots, exclude), roots, options)

    def remove(
        self, paths: str | Path | Sequence[str | Path] = (), *, where: str | None = None
    ) -> list[Path]:
        """Hide files at once: no search finds them any more. The files themselves stay.

        They stay out when their folder is ingested again, and come back when they are ingested
        by their own name.

        Args:
            paths: files, or folders with all below.
            where: a filter over the item columns.

        Returns:
            The paths that were hidden.

        Raises:
            QueryError: nothing in the collection is meant by one of `paths`.
        """
        with Writer(self.path, self._snapshot) as writer:
            return removal.remove(writer, [absolute(path) for path in _as_list(paths)], where)

    def purge(self) -> purging.Purge:
        """Take what was removed out of every file of the collection, at once and for good."""
        with Writer(self.path, self._snapshot) as writer:
            report = purging.purge(writer)
            reembedding.purge_coming(writer)
        return report

    def reembed(self, encoder: Encoder, **how: Any) -> None:
        """Move to another model while the old one answers; see `reembed.reembed`."""
        reembedding.reembed(self.path, encoder, **how)

    def resegment(
        self,
        segmentation: Segmentation,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Find videos by other stretches from now on, those that come later too.

        Opens no media file: segments are made of the stored frames. The result is what an ingest
        with this segmentation gives. An index is built anew.

        Args:
            segmentation: which stretches.
            on_progress: called with (videos done, videos in all).

        Raises:
            CollectionLocked: another process is writing.
            CollectionDamaged: a stored frame is not what was written.
        """
        with Writer(self.path, self._snapshot) as writer:
            resegment.resegment(writer, segmentation, on_progress=on_progress)
            writer.collect_garbage()
            current_index.rebuild(writer, self.asked())

    # Asking it

    def search(
        self,
        query: str | None = None,
        *,
        texts: "Sequence[str | tuple[float, str]]" = (),
        images: "Sequence[Picture | tuple[float, Picture]]" = (),
        videos: "Sequence[str | Path | tuple[float, str | Path]]" = (),
        minus: "Sequence[str | tuple[float, str]]" = (),
        k: int = 10,
        where: str | None = None,
        min_score: float | None = None,
        relevant: float | None = None,
        normalised: bool = False,
        whole: bool = False,
        moments: bool = False,
        by: By = "vectors",
        exact: bool = False,
    ) -> Hits:
        """The `k` items, or moments of videos, that show best what is asked for, best first.

        Args:
            query: words.
            texts: more words, each with a weight if you like: `(2.0, "at night")`.
            images: pictures that the result should look like.
            videos: the same with videos.
            minus: words whose depiction lowers an item's score.
            k: items wanted; with `moments`, moments.
            where: a filter over the item columns: `kind = 'video' AND duration_seconds < 60`.
            min_score: leave out what scores below this.
            relevant: leave out what is not relevant, so that nothing may be found: the share, 0.2
                say, of everyday captions that would find something here; 1 leaves out none. Hits
                have their `relevance` then; see `perception_search.relevance`.
            normalised: rank by the score less what everyday captions get, among the 20 k (200 at
                least) best: what re-weighting by other queries is to a benchmark.
            whole: rank videos as wholes, by PE's own protocol, instead of by their best segment.
            moments: rank the moments of videos instead of items: a video is found as often as it
                shows what is asked for, each time with its own times and score.
            by: `vectors` looks at the pictures. `words` looks for the words in captions, `captions`
                compares their embeddings, `hybrid` fuses vectors and words; see `caption_search`.
            exact: score every row, whatever index there is.

        Returns:
            Hits; a video's has the times of its best moment.

        Raises:
            QueryError: there is nothing to look for, or `where` cannot be used.
            MediaError: a query picture or video cannot be read.
            CollectionMismatch: the encoder is not the one the collection was made with.
        """
        parts = {"texts": texts, "images": images, "videos": videos, "minus": minus}
        how = {"k": k, "condition": where, "min_score": min_score, "relevant": relevant}
        how |= {"normalised": normalised, "whole": whole, "moments": moments, "exact": exact}
        return self._found([query], parts, by=by, **how)[0]

    def search_many(
        self,
        queries: Sequence[str],
        *,
        texts: "Sequence[str | tuple[float, str]]" = (),
        images: "Sequence[Picture | tuple[float, Picture]]" = (),
        videos: "Sequence[str | Path | tuple[float, str | Path]]" = (),
        minus: "Sequence[str | tuple[float, str]]" = (),
        k: int = 10,
        where: str | None = None,
        min_score: float | None = None,
        relevant: float | None = None,
        normalised: bool = False,
        whole: bool = False,
        moments: bool = False,
        by: By = "vectors",
        exact: bool = False,
    ) -> list[Hits]:
        """What `search` finds for each of many queries, in order and faster than one by one.

        `queries` are words, of one query each; all else belongs to every query, as for `search`.

        Raises:
            QueryError: one of the queries is empty, or `where` cannot be used.
        """
        parts = {"texts": texts, "images": images, "videos": videos, "minus": minus}
        how = {"k": k, "condition": where, "min_score": min_score, "relevant": relevant}
        how |= {"normalised": normalised, "whole": whole, "moments": moments, "exact": exact}
        return self._found(queries, parts, by=by, **how)

    def prepare_relevance(self, on_progress: "OnProgress | None" = None) -> None:
        """Measure now what `relevant` and `normalised` need, not at the first such search."""
        self._searcher.judge(self.snapshot, on_progress)

    def similar(
        self,
        item: str | Path,
        *,
        k: int = 10,
        where: str | None = None,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """The `k` items that look most like one that is in the collection, without itself.

        Opens no media file: the stored embedding is used.

        Args:
            item: a path in the collection.
            k: items wanted.
            where: a filter over the item columns.
            min_score: leave out items below this.
            exact: score every row, whatever index there is.

        Raises:
            QueryError: it is not in the collection.
        """
        path = absolute(item)
        snapshot = self.snapshot
        record = snapshot.path_records.get(path)
        if record is None or record.outcome != "ingested":
            raise QueryError(
                f"{path} is not in {self.path}. To search by any picture, use search with an image."
            )
        scopes = [tables.IMAGE, tables.VIDEO]  # a picture's one row, or a whole video's
        mine = np.asarray(snapshot.rows.content_hash.to_pylist(), object) == record.content_hash
        positions = np.flatnonzero(mine & np.isin(snapshot.rows.scope, scopes))
        target = Target(snapshot.rows.embeddings(positions[:1])[0])
        how = {"k": k, "condition": where, "min_score": min_score, "exact": exact}
        return self._ranked(snapshot, [target], **how, exclude=record.content_hash)[0]

    def _found(
        self, queries: Sequence[str | None], parts: Mapping[str, Any], *, by: By, **how: Any
    ) -> list[Hits]:
        snapshot = self.snapshot
        encode = self._encoder.for_queries(snapshot)
        targets = encode.targets(queries, **parts, words_only=by == "words")
        return self._ranked(snapshot, targets, by=by, **how)

    def _ranked(self, snapshot: Snapshot, targets: Sequence[Target], **how: Any) -> list[Hits]:
        """Search a version; the newest where a file of it was just replaced."""
        how["use_index"] = False if how.pop("exact") else None
        try:
            return self._searcher.search(snapshot, targets, **how)
        except CollectionDamaged:
            newest = self.snapshot
            if newest.version == snapshot.version:
                raise
            check_same_model(snapshot, newest)
            return self._searcher.search(newest, targets, **how)

    def query_encoder(self) -> QueryEncoder:
        """What embeds queries: words, through the collection's cache, pictures and videos."""
        return self._encoder.for_queries(self.snapshot)

    def duplicates(self, **how: Any) -> list[duplicates.Group]:
        """Groups of files that show the same; see `duplicates.duplicates` for what it takes."""
        return duplicates.duplicates(self.snapshot, **how)

    # Its index

    def index(
        self, recipe: str = AUTO, *, recall: float = USUAL_RECALL
    ) -> indexing.IndexRecord | None:
        """Build an index of all rows and use it from now on; `ingest` keeps it up.

        Args:
            recipe: a recipe's name, a string for `faiss.index_factory`, `exact` for no index, or
                `auto`: `exact` for few rows, else what suits their number; see `recipe_for`.
            recall: of the ten best rows the share that should be found, by queries like pictures
                and like texts; searching is tuned to it.

        Returns:
            What was built; None for no index.

        Raises:
            ValueError: no such recipe, or nothing to index.
            MissingExtra: FAISS is not installed.
            CollectionLocked: another process is writing.
        """
        with Writer(self.path, self._snapshot) as writer:
            return current_index.choose(writer, recipe, recall, self.asked())

    def tune(self, *, recall: float = USUAL_RECALL) -> tuning.Tuned:
        """Have the index searched in the cheapest way that reaches a recall, by measuring.

        Args:
            recall: as for `index`.

        Raises:
            QueryError: there is no index, or it cannot be trusted.
            CollectionLocked: another process is writing.
        """
        with Writer(self.path, self._snapshot) as writer:
            return current_index.tune(writer, recall, self.asked())

    def asked(self) -> "NDArray[np.float32]":
        """Embeddings (N, dim) of queries that were asked in words, by which an index is tuned."""
        return text_cache.asked(self.path, self.identity.dim, tuning.NUM_QUERIES)

    def verify(self, *, quick: bool = False) -> list[verifying.Damage]:
        """Everything that is damaged; empty when all is well. Changes nothing.

        Args:
            quick: read no whole file.
        """
        return verifying.verify(self.path, quick=quick)


def _as_list(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)
