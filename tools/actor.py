"""The document store as a Ray actor: opened once for the platform, reached by every agent and the gateway."""

from pathlib import Path

from manta.messages import Passage
from manta.protocols import Embedder
from tools.documents import AddedDocument, CollectionInfo, DocumentInfo, DocumentStore
from tools.ray_calls import NamedActor

DOCUMENTS_ACTOR = "documents"


class DocumentsActor:
    """Serves one folder of collections. A plain async class: composition makes the actor of it.

    Its constructor cannot fail: the store opens at the first call, and a call that fails can be repeated.
    """

    def __init__(self, folder: str, embedder: Embedder) -> None:
        self._store = DocumentStore(Path(folder), embedder)

    async def add(
        self, collection: str, document: str, data: bytes, media_type: str | None = None
    ) -> AddedDocument:
        return await self._store.add(collection, document, data, media_type)

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        return await self._store.search(collection, query, limit)

    async def collections(self) -> list[CollectionInfo]:
        return await self._store.collections()

    async def documents(self, collection: str) -> list[DocumentInfo]:
        return await self._store.documents(collection)

    async def text(self, collection: str, document: str) -> str:
        return await self._store.text(collection, document)

    async def delete(self, collection: str, document: str) -> None:
        await self._store.delete(collection, document)

    async def ping(self) -> bool:
        return True


class RemoteDocuments:
    """The same methods from another process, by the actor's name; it satisfies the Documents protocol.

    Errors of the store arrive as themselves. An actor that does not answer for 15 s is Unavailable; until
    then calls are repeated, which is safe as all of them are idempotent.
    """

    def __init__(self, actor: NamedActor | None = None) -> None:
        self._actor = actor or NamedActor(DOCUMENTS_ACTOR)

    async def add(
        self, collection: str, document: str, data: bytes, media_type: str | None = None
    ) -> AddedDocument:
        added: AddedDocument = await self._actor.call("add", collection, document, data, media_type)
        return added

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        found: list[Passage] = await self._actor.call("search", collection, query, limit)
        return found

    async def collections(self) -> list[CollectionInfo]:
        found: list[CollectionInfo] = await self._actor.call("collections")
        return found

    async def documents(self, collection: str) -> list[DocumentInfo]:
        found: list[DocumentInfo] = await self._actor.call("documents", collection)
        return found

    async def names(self, collection: str) -> list[str]:
        return [found.document for found in await self.documents(collection)]

    async def text(self, collection: str, document: str) -> str:
        text: str = await self._actor.call("text", collection, document)
        return text

    async def delete(self, collection: str, document: str) -> None:
        """A repeated delete whose first try succeeded unseen raises NotFound."""
        await self._actor.call("delete", collection, document)

    async def ping(self) -> None:
        """Returns at once if the actor answers; never waits for one that restarts."""
        await self._actor.call("ping", patience_s=0)
