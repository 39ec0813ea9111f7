"""A TCP proxy that acts as a bad network: it cuts a connection after a number of bytes, with FIN or with RST."""

import contextlib
import socket
import struct
import threading


class Proxy:
    def __init__(self, port):
        self.target = port
        self.cuts = []
        self.sent = 0
        self.received = 0
        self.cut_count = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def cut_after(self, count, how):
        """Cuts the connection that carries the `count`-th byte from now to the server."""
        with self._lock:
            self.cuts.append((self.sent + count, how))
            self.cuts.sort()

    def dispose(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            is_cut = threading.Event()
            threading.Thread(target=self._pump, args=(client, server, True, is_cut), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False, is_cut), daemon=True).start()

    def _pump(self, source, target, up, is_cut):
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                keep, how = self._keep(len(chunk)) if up else self._count(len(chunk))
                target.sendall(chunk[:keep])
                if how:
                    is_cut.set()
                    return self._cut(source, target, how)
            if not is_cut.is_set():
                target.shutdown(socket.SHUT_WR)

    def _count(self, count):
        with self._lock:
            self.received += count
        return count, None

    def _keep(self, count):
        with self._lock:
            how = None
            if self.cuts and self.cuts[0][0] <= self.sent + count:
                at, how = self.cuts.pop(0)
                count = at - self.sent
                self.cut_count += 1
            self.sent += count
            return count, how

    def _cut(self, source, target, how):
        for side in (source, target):
            if how == "rst":
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # A socket is closed only when the thread that reads from it stops.
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RD if how == "rst" else socket.SHUT_RDWR)
            side.close()
