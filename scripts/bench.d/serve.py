"""A small HTTP/1.1 server of files, with ranges and sendfile: serve.py ADDRESS PORT FOLDER

Files are asked for by their path below the folder. A registry's addresses, /v2/NAME/blobs/sha256:DIGEST, are the file
DIGEST, so that it is also where Nydus gets its blobs.
"""

import os
import re
import socket
import sys
import threading
import urllib.parse


def path_of(target, folder):
    target = urllib.parse.unquote(target.split("?", 1)[0])
    if blob := re.fullmatch(r"/v2/.*/blobs/sha256:([0-9a-f]+)", target):
        target = "/" + blob[1]
    path = os.path.realpath(folder + target)
    return path if path.startswith(os.path.realpath(folder) + "/") and os.path.isfile(path) else None


def answer(connection, request, folder):
    line, *lines = request.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    path = path_of(target, folder)
    if path is None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start, end, status, extra = 0, size, "200 OK", ""
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]) + 1 if wanted[2] else size, size)
            status, extra = "206 Partial Content", f"Content-Range: bytes {start}-{end - 1}/{size}\r\n"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {end - start}\r\nAccept-Ranges: bytes\r\n{extra}\r\n"
        connection.sendall(head.encode(), socket.MSG_MORE if method == "GET" and end > start else 0)
        while method == "GET" and start < end:
            start += os.sendfile(connection.fileno(), file.fileno(), start, end - start)


def serve(connection, folder):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pending = b""
    try:
        while True:
            while b"\r\n\r\n" not in pending:
                if not (got := connection.recv(65536)):
                    return
                pending += got
            request, pending = pending.split(b"\r\n\r\n", 1)
            answer(connection, request, folder)
    except OSError:
        pass
    finally:
        connection.close()


def main():
    address, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with socket.create_server((address, port), backlog=64) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=serve, args=(connection, folder), daemon=True).start()


main()
