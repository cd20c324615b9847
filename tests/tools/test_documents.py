"""The document store over real LanceDB tables."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manta.config import child_environment
from manta.errors import (
    Conflict,
    InvalidInput,
    ModelLoadError,
    NotFound,
    StorageUnavailable,
    UnreadableDocument,
)
from manta.messages import Passage
from serve_app.engine.embeddings import SentenceEmbedder
from serve_app.engine.weights import embedded_embedder_path
from tests.tools.hashing_embedder import HashingEmbedder
from tests.tools.pdf_files import pdf
from tools.documents import AddedDocument, DocumentStore, fuse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def embedder() -> HashingEmbedder:
    return HashingEmbedder()


@pytest.fixture
def store(tmp_path: Path, embedder: HashingEmbedder) -> DocumentStore:
    return DocumentStore(tmp_path / "documents", embedder)


def _long(topic: str, paragraphs: int = 6) -> str:
    return "\n\n".join(
        f"Part {n} tells of {topic}. " + f"It says more of {topic} here. " * 14 for n in range(paragraphs)
    )


async def test_a_document_is_found_by_its_words_and_its_passages_are_verbatim(store: DocumentStore):
    texts = {
        "fish.md": _long("herrings") + "\n",
        "birds.txt": "\n" + _long("sparrows"),
        "gpu.md": _long("replicas"),
    }
    for name, text in texts.items():
        added = await store.add("zoo", name, text.encode())
        assert added.passages >= 3
    found = await store.search("zoo", "Which herring?", limit=3)
    assert [p.document for p in found] == ["fish.md"] * 3
    for passage in found:
        assert passage.text == texts["fish.md"][passage.start : passage.end]
        assert passage.source == "document"
        assert passage.score > 0
    assert len({p.id for p in found}) == 3
    for name, text in texts.items():
        assert await store.text("zoo", name) == text


async def test_a_passage_is_found_by_meaning_when_no_word_of_the_query_can_be(store: DocumentStore):
    await store.add("c", "a", b"About the and of it.")
    # Stop words only: the full-text side has nothing to say.
    assert [p.document for p in await store.search("c", "the of and")] == ["a"]


async def test_the_same_content_again_is_not_embedded_or_written_again(
    store: DocumentStore, embedder: HashingEmbedder
):
    first = await store.add("c", "a.md", b"Some words.")
    assert first == AddedDocument("a.md", 1, first.sha256, unchanged=False)
    (before,) = await store.search("c", "words")
    batches = len(embedder.calls)
    assert await store.add("c", "a.md", b"Some words.") == AddedDocument(
        "a.md", 1, first.sha256, unchanged=True
    )
    assert len(embedder.calls) == batches
    assert await store.search("c", "words") == [before]


async def test_changed_content_replaces_the_old_and_only_that(store: DocumentStore):
    await store.add("c", "o'brien; drop.md", _long("herrings").encode())
    await store.add("c", "other.md", _long("herrings").encode())
    await store.add("c", "o'brien; drop.md", b"Now it is about sparrows.")
    assert await store.text("c", "o'brien; drop.md") == "Now it is about sparrows."
    assert {p.document for p in await store.search("c", "herrings", limit=20)} >= {"other.md"}
    passages = {d.document: d.passages for d in await store.documents("c")}
    assert passages["o'brien; drop.md"] == 1
    assert passages["other.md"] >= 3


async def test_what_cannot_be_read_leaves_the_old_document(store: DocumentStore):
    await store.add("c", "a.pdf", pdf("The old text."))
    with pytest.raises(UnreadableDocument):
        await store.add("c", "a.pdf", b"%PDF-1.4 broken")
    assert await store.text("c", "a.pdf") == "The old text."


async def test_collections_are_apart_and_end_with_their_last_document(store: DocumentStore):
    assert await store.collections() == []
    await store.add("a", "x", b"Herrings swim.")
    await store.add("b", "x", b"Sparrows fly.")
    await store.add("b", "y", b"Swallows fly.")
    assert [(c.name, c.documents, c.passages) for c in await store.collections()] == [
        ("a", 1, 1),
        ("b", 2, 2),
    ]
    assert {p.text for p in await store.search("a", "fly swim")} == {"Herrings swim."}
    await store.delete("a", "x")
    assert [c.name for c in await store.collections()] == ["b"]
    with pytest.raises(NotFound):
        await store.search("a", "swim")
    await store.add("a", "x", b"Herrings swim again.")
    assert [p.text for p in await store.search("a", "swim")] == ["Herrings swim again."]


async def test_what_does_not_exist_is_said_with_a_fix(store: DocumentStore):
    await store.add("c", "a", b"Words.")
    for call in (
        store.search("nope", "q"),
        store.documents("nope"),
        store.text("nope", "a"),
        store.text("c", "b"),
        store.delete("c", "b"),
        store.delete("nope", "a"),
    ):
        with pytest.raises(NotFound) as missing:
            await call
        assert missing.value.fix


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 64, "a b", "a\n", "ä", "c.lance"])
async def test_collection_names_are_checked(store: DocumentStore, name: str):
    for call in (store.add(name, "a", b"Words."), store.search(name, "q"), store.documents(name)):
        with pytest.raises(InvalidInput, match="cannot name a collection"):
            await call


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0", "\ud800", "x" * 1025])
async def test_document_names_are_checked(store: DocumentStore, name: str):
    with pytest.raises(InvalidInput, match="cannot name a document"):
        await store.add("c", name, b"Words.")


@pytest.mark.parametrize(("query", "limit"), [("", 8), (" \n", 8), ("q" * 4001, 8), ("q", 0), ("q", 101)])
async def test_queries_and_limits_are_checked(store: DocumentStore, query: str, limit: int):
    await store.add("c", "a", b"Words.")
    with pytest.raises(InvalidInput):
        await store.search("c", query, limit)


STRANGE = st.one_of(
    st.text(min_size=1, max_size=80),
    st.lists(
        st.sampled_from(
            ['"', "'", "AND", "OR", "NOT", "(", ")", "^2", "~1", "*", "a:b", "+", "-", "\\", "the", "[", "{"]
        )
    ).map(" ".join),
)


def test_no_query_is_syntax(tmp_path: Path):
    store = DocumentStore(tmp_path, HashingEmbedder())
    with asyncio.Runner() as runner:
        runner.run(store.add("c", "a", b"Words and more."))

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(STRANGE.filter(str.strip))
        def searched(query: str) -> None:
            assert len(runner.run(store.search("c", query))) == 1

        searched()


async def test_two_adds_of_one_document_at_once_leave_one_of_them_whole(store: DocumentStore):
    versions = [_long(topic, 3) for topic in ("herrings", "sparrows", "replicas", "swallows")]
    await asyncio.gather(*(store.add("c", "a.md", version.encode()) for version in versions))
    assert await store.text("c", "a.md") in versions
    (info,) = await store.documents("c")
    found = await store.search("c", "part", limit=100)
    assert len(found) == info.passages


async def test_many_documents_are_searched_before_and_after_tidying(store: DocumentStore):
    for n in range(70):
        await store.add("c", f"{n}.md", f"Document {n} names the creature number{n}.".encode())
    for n in (0, 31, 32, 69):
        assert (await store.search("c", f"number{n}"))[0].document == f"{n}.md"
    assert len(await store.documents("c")) == 70
    assert len(await store.search("c", "creature", limit=100)) == 70


async def test_another_embedding_size_is_a_conflict_that_changes_nothing(tmp_path: Path):
    await DocumentStore(tmp_path, HashingEmbedder(64)).add("c", "a", b"Words.")
    other = DocumentStore(tmp_path, HashingEmbedder(32))
    for call in (other.search("c", "words"), other.add("c", "b", b"More words.")):
        with pytest.raises(Conflict, match="64 dimensions"):
            await call
    assert [d.document for d in await other.documents("c")] == ["a"]


async def test_a_disk_that_cannot_be_used_is_storage_unavailable(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailable) as failed:
        await DocumentStore(tmp_path / "file", HashingEmbedder()).add("c", "a", b"Words.")
    assert failed.value.fix


async def test_a_store_opened_again_has_what_was_added(tmp_path: Path):
    await DocumentStore(tmp_path, HashingEmbedder()).add("c", "a.md", b"Words stay.", "text/markdown")
    again = DocumentStore(tmp_path, HashingEmbedder())
    assert [p.text for p in await again.search("c", "stay")] == ["Words stay."]
    assert [(d.document, d.media_type) for d in await again.documents("c")] == [("a.md", "text/markdown")]


ADD_FOREVER = """
import asyncio, sys
from pathlib import Path
from tests.tools.hashing_embedder import HashingEmbedder
from tools.documents import DocumentStore

async def main():
    store = DocumentStore(Path(sys.argv[1]), HashingEmbedder())
    n = 0
    while True:
        n += 1
        text = "\\n\\n".join(f"Version {n} part {i}. " + "Words go on. " * 30 for i in range(n % 7 + 2))
        await store.add("c", "a.md", text.encode())
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("commits", [1, 5, 9])
async def test_a_process_killed_in_mid_add_leaves_one_whole_document(tmp_path: Path, commits: int):
    child = subprocess.Popen(
        [sys.executable, "-c", ADD_FOREVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=child_environment(),
    )
    assert child.stdout is not None
    for _ in range(commits):
        assert child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    store = DocumentStore(tmp_path, HashingEmbedder())
    text = await store.text("c", "a.md")
    version = int(text.split()[1])
    assert version >= commits
    assert text.count(f"Version {version} part") == version % 7 + 2
    assert text.count("Version") == version % 7 + 2
    assert (await store.add("c", "a.md", b"After the crash.")).passages == 1
    assert [p.text for p in await store.search("c", "crash")] == ["After the crash."]


def test_importing_the_store_does_not_import_lancedb():
    code = "import sys, json, tools.documents, tools.actor; print(json.dumps([m for m in sys.modules]))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT))
    assert not {"lancedb", "pyarrow", "pandas", "pypdf"} & set(loaded)


def _passage(name: str) -> Passage:
    return Passage(id=name, document=name, start=0, end=1, text=name)


def test_fusion_prefers_what_both_rankings_have_and_breaks_ties_by_name():
    a, b, c, d = (_passage(n) for n in "abcd")
    assert [p.id for p in fuse([[b, a], [c, a]])] == ["a", "b", "c"]
    assert [p.id for p in fuse([[], [d, c]])] == ["d", "c"]
    assert fuse([[a], [a]])[0].score == pytest.approx(2 / 61)


QUESTIONS = [
    ("How are more copies started when traffic grows?", "scaling.md"),
    ("What does a graphics card cost for an hour?", "price.md"),
    ("Who may read the secret?", "auth.md"),
]


class MiniLm:
    """The embedded sentence model, in this process."""

    def __init__(self) -> None:
        self._model = SentenceEmbedder.load(embedded_embedder_path())
        self.dimensions = self._model.width

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(x) for x in row] for row in self._model.encode(texts)]


async def test_the_real_embedder_finds_what_shares_no_word_with_the_query(tmp_path: Path):
    try:
        embedder = MiniLm()
    except ModelLoadError as error:
        pytest.skip(str(error))
    store = DocumentStore(tmp_path, embedder)
    await store.add("c", "scaling.md", b"The autoscaler adds replicas whenever the load rises.")
    await store.add("c", "price.md", b"Renting one GPU is $0.50 each 60 minutes.")
    await store.add("c", "auth.md", b"A token guards the dashboard; its file has mode 0600.")
    for question, document in QUESTIONS:
        assert (await store.search("c", question))[0].document == document
