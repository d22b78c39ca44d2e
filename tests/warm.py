"""A Python that has imported torch already, for tests that start many scripts: importing it takes longer than what they do.

    python tests/warm.py serve SOCKET                       # imports everything, then forks a process for each request
    python -S -E tests/warm.py SOCKET mix.py a.pt b.pt ...  # as `python mix.py a.pt b.pt ...`, or `-m MODULE ...`
"""
import json
import os
import signal
import socket
import sys
import threading


def ask(address, words):
    """Have the server run a script here and now, with this process's streams. Returns its exit code, 137 if it was killed."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [1, 2])
        server.sendall(request)
        return int(server.recv(16) or 137)


def run(client):
    """Do what one client asks for, in this process, and die with it."""
    length, streams, _, _ = socket.recv_fds(client, 4, 2)
    text = b""
    while len(text) < int.from_bytes(length, "big"):
        text += client.recv(2**16)
    words, folder, environment = json.loads(text)
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # the old ones think that they can seek
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=lambda: client.recv(1) or os.kill(os.getpid(), signal.SIGKILL), daemon=True).start()
    sys.path[0] = folder
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", os.cpu_count())))
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else bool(exit.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    client.sendall(b"%d" % code)
    os._exit(0)


if __name__ == "__main__" and sys.argv[1] != "serve":
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
elif __name__ == "__main__":
    import runpy
    import traceback
    from pathlib import Path

    import torch
    import torch._dynamo  # noqa: F401  an optimizer would import it in each process anew

    sys.path.insert(0, str(Path(__file__).parent.parent))
    import evaluate  # noqa: F401  and with it nearly everything else
    import finetune_router  # noqa: F401
    import mix  # noqa: F401
    import sample  # noqa: F401
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(sys.argv[2])
        server.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                run(client)
            client.close()
