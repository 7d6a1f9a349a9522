"""Items of a collection by the names that people write: whole paths, or the ends of them."""

from pathlib import Path

from perception_search.errors import QueryError
from perception_search.media import absolute, display
from perception_search.snapshot import Snapshot


class NamedItems:
    """The live items of one version, by the paths that hold them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._folder = snapshot.folder
        self._by_path = {
            path: content_hash
            for content_hash, paths in snapshot.live_paths.items()
            for path in paths
        }
        self._by_name: dict[str, list[Path]] = {}
        for path in self._by_path:
            self._by_name.setdefault(path.name, []).append(path)

    def fitting(self, name: str) -> set[str]:
        """Content hashes of the items that are called `name`: absolute, from here, or the end of a
        path (`2019/beach.jpg`, `beach.jpg`); a whole path counts before ends of others.
        """
        whole = absolute(name)
        if whole in self._by_path:
            return {self._by_path[whole]}
        parts = Path(name).parts
        return {
            self._by_path[path]
            for path in self._by_name.get(Path(name).name, [])
            if path.parts[-len(parts) :] == parts
        }

    def find(self, name: str) -> str:
        """Content hash of the one item that is called `name`.

        Raises:
            QueryError: there is none, or there are several.
        """
        found = self.fitting(name)
        if len(found) > 1:
            raise QueryError(f"{len(found)} items are called {name}: write more of its path")
        if not found:
            raise QueryError(f"{display(name)} is not in {display(self._folder)}")
        return next(iter(found))
