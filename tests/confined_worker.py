"""A decode worker that a file has taken over: it does what a test asks, under its confinement.

Run as `python -m confined_worker`. WORKER_UID makes it another user's; WORKER_LACKS names what its
kernel is made to refuse. `python -m confined_worker attempt NAME TARGET` tries without confinement.
"""

import errno
import os
import socket
import threading
from pathlib import Path

from perception_search import call_filter, confinement, decode_worker


def connect(target):
    port, _ = target.split(",", 1)
    with socket.socket() as client:
        client.connect(("127.0.0.1", int(port)))


def listen(target):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


def send(target):
    port, _ = target.split(",", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", int(port)))


def connect_abstract(target):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + target.split(",", 1)[1])


def create(target):
    (Path(target) / "new").write_bytes(b"")


def make_folder(target):
    (Path(target) / "folder").mkdir()


def make_symlink(target):
    (Path(target) / "symlink").symlink_to("victim")


def make_link(target):
    (Path(target) / "link").hardlink_to(Path(target) / "victim")


def make_pipe(target):
    os.mkfifo(Path(target) / "pipe")


def rename(target):
    (Path(target) / "victim").rename(Path(target) / "renamed")
    (Path(target) / "renamed").rename(Path(target) / "victim")


def overwrite(target):
    with (Path(target) / "victim").open("r+b") as file:
        file.write(b"x")


def truncate(target):
    os.truncate(Path(target) / "victim", 1)


def delete(target):
    (Path(target) / "victim").unlink()


def execute(target):
    _run("/bin/true")


def execute_from_memory(target):
    fd = os.memfd_create("program", 0)
    os.write(fd, Path("/bin/true").read_bytes())
    _run(f"/proc/self/fd/{fd}")


def signal_parent(target):
    os.kill(os.getppid(), 0)


def become_root(target):
    os.setresuid(0, 0, 1)


def read(target):
    (Path(target) / "victim").read_bytes()


def start_threads(target):
    threads = [threading.Thread(target=threading.Event().wait, args=(0.01,)) for _ in range(16)]
    for thread in threads:
        thread.start()


def _run(program):
    _, status = os.waitpid(os.posix_spawn(program, [program], {}), 0)
    assert status == 0


def attempt(name, target):
    """The name of the error that an attempt ends with; None when it succeeds."""
    try:
        globals()[name](target)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return None


class TakenOverWorker(decode_worker.Worker):
    def _answer(self, request, file, head, status):
        if request["do"] == "attempt":
            self._say("attempted", error=attempt(request["name"], request["target"]))
        else:
            super()._answer(request, file, head, status)


def main():
    lacking = os.environ.get("WORKER_LACKS", "").split()
    if "landlock" in lacking:
        confinement._LANDLOCK_CREATE_RULESET = 9999
    if "namespaces" in lacking:
        confinement._CLONE_NEWNET = 1
    if "seccomp" in lacking:
        call_filter._MODE_FILTER = 99
    if uid := int(os.environ.get("WORKER_UID", 0)):
        # That user may not be able to read where Python is installed.
        import resource  # noqa: F401

        from perception_search import decode_video  # noqa: F401

        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    decode_worker.main(TakenOverWorker)


if __name__ == "__main__":
    main()
