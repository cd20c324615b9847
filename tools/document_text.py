"""Bytes of a file to the text that passages point into: plain text, Markdown, HTML and PDF.

Plain text and Markdown come out character for character as they are in the file, so that anyone can check a
passage's offsets against it.
"""

import io
import re
import unicodedata
from pathlib import PurePosixPath

from manta.errors import UnreadableDocument
from tools.html_text import html_to_text

MAX_BYTES = 32 * 1024 * 1024
MAX_CHARACTERS = 8_000_000

_BY_SUFFIX = {
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".csv": "text/csv",
    ".tsv": "text/csv",
}
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_TABLE_TYPES = frozenset({"text/csv", "text/tab-separated-values"})


def extract(name: str, data: bytes, media_type: str | None = None) -> str:
    """The text of a document.

    Args:
        name: the document's name; its ending counts where the media type says nothing.
        media_type: as in a Content-Type header, parameters and all.

    Raises:
        UnreadableDocument: empty, too large, encrypted, a table, not text, or in an unknown encoding.
    """
    if not data.strip(b"\0 \t\r\n"):
        raise UnreadableDocument(f"{name} is empty", fix="give a file with text in it")
    if len(data) > MAX_BYTES:
        raise UnreadableDocument(
            f"{name} has {len(data):,} bytes, more than {MAX_BYTES:,}", fix="split it into smaller files"
        )
    kind = _kind(name, data, media_type)
    if kind == "text/csv":
        raise UnreadableDocument(f"{name} is a table, not a document", fix="give it as data instead (--data)")
    if kind == "application/pdf":
        text = _pdf(name, data)
    elif kind == "text/html":
        text = html_to_text(_decode(name, data, _declared_charset(data, media_type)))
    else:
        text = _decode(name, data, _charset(media_type or ""))
    if not text.strip():
        cause, fix = _NO_TEXT.get(kind, ("has no text in it", "give a file with text in it"))
        raise UnreadableDocument(f"{name} {cause}", fix=fix)
    if len(text) > MAX_CHARACTERS:
        raise UnreadableDocument(
            f"{name} has {len(text):,} characters, more than {MAX_CHARACTERS:,}",
            fix="split it into smaller files",
        )
    return text


_NO_TEXT = {
    "application/pdf": (
        "has no text in it; its pages are probably pictures",
        "recognise its text first (OCR)",
    ),
    "text/html": ("has no visible text", "give the page as it looks after its scripts ran"),
}


def _kind(name: str, data: bytes, media_type: str | None) -> str:
    if data[:1024].lstrip().startswith(b"%PDF-"):
        return "application/pdf"
    declared = (media_type or "").partition(";")[0].strip().lower()
    if declared in _HTML_TYPES:
        return "text/html"
    if declared in _TABLE_TYPES:
        return "text/csv"
    by_suffix = _BY_SUFFIX.get(PurePosixPath(name).suffix.lower())
    if by_suffix is not None:
        return by_suffix
    if declared == "application/pdf":
        return declared
    # An ending such as .md is trusted; only a name that says nothing is judged by its first characters.
    if not PurePosixPath(name).suffix and re.match(rb"\s*<(?:!doctype html|html)[\s>]", data, re.IGNORECASE):
        return "text/html"
    return "text/plain"


_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"))
_MARKS_16 = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def _decode(name: str, data: bytes, declared: str | None) -> str:
    """Text by its byte-order mark, by what was declared, as UTF-8, or as Windows-1252 if it looks so."""
    mark = next((codec for sign, codec in _MARKS + _MARKS_16 if data.startswith(sign)), None)
    for codec in [mark] if mark else [declared, "utf-8", "cp1252"]:
        text = _try(data, codec)
        if text is None or (codec == "cp1252" and codec != declared and not _western(text)):
            continue
        if _binary(text):
            break
        return text
    if data.startswith(b"PK\x03\x04"):
        raise UnreadableDocument(f"{name} is a Word, Office or zip file", fix="save it as PDF, HTML or text")
    if mark is None and b"\0" not in data and not _binary(data.decode("latin-1")):
        raise UnreadableDocument(f"{name} is in an unknown encoding", fix="save it as UTF-8")
    raise UnreadableDocument(f"{name} is not text", fix="give text, Markdown, HTML or PDF")


def _try(data: bytes, codec: str | None) -> str | None:
    if codec is None:
        return None
    try:
        return data.decode(codec)
    except (UnicodeError, LookupError):
        return None


def _binary(text: str) -> bool:
    """Whether it holds what no text has: a NUL, or more than a stray few control characters."""
    if "\0" in text:
        return True
    sample = text[:100_000]
    controls = sum(unicodedata.category(c) == "Cc" and c not in "\t\n\r\f\v\x1b\x85" for c in sample)
    return controls * 200 > len(sample)


def _western(text: str) -> bool:
    """Windows-1252 accepts nearly any bytes; in text that is really in it, most letters are plain ones."""
    letters = [c for c in text[:100_000] if c.isalpha() or ord(c) > 127]
    return sum(ord(c) > 127 for c in letters) * 4 <= len(letters)


def _charset(content_type: str) -> str | None:
    found = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type, re.IGNORECASE)
    # Undeclared and "ISO-8859-1" both mean Windows-1252 on the web.
    name = found.group(1).lower() if found else None
    return "cp1252" if name in ("iso-8859-1", "latin1", "us-ascii") else name


def _declared_charset(data: bytes, media_type: str | None) -> str | None:
    declared = _charset(media_type or "")
    if declared:
        return declared
    meta = re.search(rb"<meta[^>]{0,200}?charset[^>]{0,80}>", data[:4096], re.IGNORECASE)
    return _charset(meta.group().decode("ascii", "ignore")) if meta else None


def _pdf(name: str, data: bytes) -> str:
    """The pages' text, an empty line between two pages."""
    # Imported here: it takes a quarter of a second that no other kind of document needs.
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableDocument(f"{name} is encrypted", fix="save it without a password")
        pages = [page.extract_text().strip() for page in reader.pages]
    except UnreadableDocument:
        raise
    except Exception as error:
        # Besides its own errors, pypdf lets out what a malformed file provokes: KeyError, RecursionError...
        cause = " ".join(f"{type(error).__name__} {error}".split())[:160]
        raise UnreadableDocument(
            f"{name} is not a PDF that can be read: {cause}", fix="save or print it as PDF again"
        ) from error
    # Lone surrogates from broken fonts can be neither stored nor sent.
    return "\n\n".join(filter(None, pages)).encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
