"""A way to PostgreSQL that loses the answer to a COMMIT: it is written, and the client cannot know."""

import select
import socket
import threading


class LossyProxy:
    """Listens on a local port. After `lose_next_commit`, a COMMIT is passed on and its answer dropped."""

    def __init__(self, server_socket: str) -> None:
        self._server_socket = server_socket
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._armed = threading.Event()
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def lose_next_commit(self) -> None:
        self._armed.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server_socket)
        losing = False
        with client, server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data or (losing and source is server):
                        return
                    if source is client and b"COMMIT" in data and self._armed.is_set():
                        self._armed.clear()
                        self.lost += 1
                        losing = True
                    (server if source is client else client).sendall(data)
