"""Loaders: what a file's text is, and a clear refusal where there is none."""

import io

import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.errors import UnreadableDocument
from tests.tools.pdf_files import pdf
from tools.document_text import MAX_BYTES, extract

ENCODABLE = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t\r"), min_size=1)


@given(ENCODABLE.filter(lambda text: text.strip() and not text.startswith("\ufeff")))
def test_utf8_text_comes_out_as_it_is_in_the_file(text: str):
    if text.lstrip().startswith("%PDF-"):
        return
    assert extract("notes.md", text.encode()) == text


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_are_recognised(codec: str):
    text = "Die Größe – gemessen in Zoll – „Straße“.\r\nEt voilà, déjà vu."
    assert extract("notes.txt", text.encode(codec)) == text


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        ("Привет, мир".encode("koi8-r"), "text/plain; charset=koi8-r"),
        ("<html><meta charset='koi8-r'><p>Привет, мир</p>".encode("koi8-r"), "text/html"),
    ],
)
def test_a_declared_encoding_is_used(data: bytes, media_type: str):
    assert extract("page", data, media_type) == "Привет, мир"


def test_html_keeps_what_a_reader_sees_in_order():
    page = """<!DOCTYPE html><html><head><title>T</title><script>var hidden = 1 < 2;</script><body>
      <nav><ul><li><a href="/">Home</a></ul></nav>
      <h1>Scaling &amp; cost</h1><p>Replicas follow
        <b>ongoing</b> requests.<br>Second line.</p>
      <pre>if a:\n    b = 1\n\nc</pre>
      <ul><li>one<ul><li>two</li></ul></li></ul>
      <table><tr><th>GPU</th><th>rps</th></tr><tr><td>T4</td><td>20</td></tr></table>
      <footer>imprint</footer></body></html>"""
    assert extract("page.html", page.encode()).split("\n\n") == [
        "# Scaling & cost",
        "Replicas follow ongoing requests.\nSecond line.",
        "```\nif a:\n    b = 1",
        "c\n```",
        "- one",
        "- two",
        "GPU | rps",
        "T4 | 20",
    ]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a", None), ("a", "text/html; charset=utf-8"), ("a.htm", "application/octet-stream")],
)
def test_html_is_recognised_by_its_type_its_name_or_its_first_words(name: str, media_type: str | None):
    assert extract(name, b"<html><head><title>x</title><p>Hello</html>", media_type) == "Hello"


def test_markup_in_a_markdown_file_is_left_alone():
    assert extract("a.md", b"<html> is the root element") == "<html> is the root element"


@given(st.text(st.sampled_from("<>/ap=! -'\"&;bodyhetr\n"), max_size=200))
def test_no_html_is_too_broken_to_read(page: str):
    try:
        text = extract("a.html", page.encode())
    except UnreadableDocument as error:
        text = error.message
    assert text.strip()


def test_pdf_pages_are_set_apart():
    text = extract("a.pdf", pdf("Serve scales.\nIt waits.", "Größe (two)."))
    assert text == "Serve scales.\nIt waits.\n\nGröße (two)."


def test_a_pdf_is_recognised_by_its_content():
    assert extract("report", pdf("Hello there."), "application/octet-stream") == "Hello there."


def _encrypted(user_password: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(pdf("Secret words.")))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_pdf_that_anyone_may_open_is_read_although_it_is_encrypted():
    assert extract("a.pdf", _encrypted("")) == "Secret words."


@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\r\n\0\0", "is empty"),
        ("a.txt", b"\xef\xbb\xbf \n", "no text in it"),
        ("a.txt", bytes(range(256)) * 20, "is not text"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(50), "is not text"),
        ("a.docx", b"PK\x03\x04" + bytes(range(200)), "Word, Office or zip"),
        ("a.txt", "Привет, как дела".encode("koi8-r"), "unknown encoding"),
        ("a.txt", b"\xff\xfea", "is not text"),
        ("a.csv", b"a,b\n1,2\n", "is a table"),
        ("a", b"a,b\n1,2\n", "is a table"),
        ("a.html", b"<html><script>x</script></html>", "no visible text"),
        ("a.pdf", b"%PDF-1.4 and then nothing", "not a PDF that can be read"),
        ("a.pdf", b"no such mark", "not a PDF that can be read"),
        ("a.pdf", pdf(""), "pictures"),
        ("a.pdf", _encrypted("pass"), "is encrypted"),
        ("a.txt", b"a" * (MAX_BYTES + 1), "more than"),
        ("a.txt", b"a " * 5_000_000, "characters, more than"),
    ],
)
def test_what_cannot_be_read_is_refused_with_cause_and_fix(name: str, data: bytes, cause: str):
    with pytest.raises(UnreadableDocument) as refused:
        extract(name, data, "text/csv" if name == "a" else None)
    assert cause in refused.value.message
    assert refused.value.message.startswith(name)
    assert refused.value.fix
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=300), st.sampled_from(["a.pdf", "a.txt", "a.html", "a"]))
def test_any_bytes_are_text_or_a_clear_refusal(data: bytes, name: str):
    for content in (data, pdf("Some words.")[:-200] + data):
        try:
            text = extract(name, content)
        except UnreadableDocument as error:
            text = error.fix
        assert text.encode("utf-8").strip()
