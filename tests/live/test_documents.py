"""Collections and files over HTTP, and what is refused of them."""

from pathlib import Path

import httpx
import pytest

from manta.client import Client
from manta.errors import MantaError, NotFound, UnreadableDocument
from tests.live.conftest import LivePlatform


def test_a_document_is_added_found_and_taken_away(client: Client, tmp_path: Path):
    note = tmp_path / "tides.md"
    note.write_text("# Tides\n\nThe moon pulls the sea, and so the water rises twice a day.\n")
    added = client.add_document("notes", note)
    assert added.passages >= 1
    assert client.add_document("notes", note) == added
    found = client.search_documents("notes", "why does the water rise?")
    assert found[0].document == "tides.md"
    assert note.read_text()[found[0].start : found[0].end] == found[0].text
    assert [c.documents for c in client.collections() if c.name == "notes"] == [1]


def test_a_document_can_be_deleted(platform: LivePlatform, client: Client, tmp_path: Path):
    note = tmp_path / "old.txt"
    note.write_text("This text is of no use to anyone any more, and so it goes.")
    client.add_document("short-lived", note)
    address = f"{platform.url}/collections/short-lived/documents/old.txt"
    assert httpx.delete(address).status_code == 204
    assert httpx.delete(address).status_code == 404


def test_unreadable_documents_say_why(client: Client, tmp_path: Path):
    binary = tmp_path / "image.md"
    binary.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(UnreadableDocument) as refused:
        client.add_document("notes", binary)
    assert refused.value.fix
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 and then nothing of the kind")
    with pytest.raises(UnreadableDocument):
        client.add_document("notes", broken)


def test_files_keep_their_bytes(client: Client, tmp_path: Path):
    data = tmp_path / "data.csv"
    data.write_text("a,b\n1,2\n")
    ref = client.upload_file(data)
    assert (ref.name, ref.size) == ("data.csv", 8)
    assert client.download(ref) == data.read_bytes()
    with pytest.raises(NotFound):
        client.download("0" * 64)


def test_names_are_checked(platform: LivePlatform):
    bad = httpx.put(f"{platform.url}/collections/Not%20A%20Name/documents/x.md", content=b"text")
    assert bad.status_code == 422
    empty = httpx.put(f"{platform.url}/collections/ok/documents/x.md", content=b"")
    assert empty.status_code == 422
    with pytest.raises(MantaError):
        Client(platform.url).search_documents("none-such", "x")
