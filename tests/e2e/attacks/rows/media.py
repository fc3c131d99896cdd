"""Parts of a message that would make a backend fetch what the client names."""

from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import INVALID, PASSES, rows
from tests.e2e.attacks.rows.bodies import parts

_DATA = "extproc: images as data: URLs only"
_PARTS = "extproc: text and images only"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def image(url: object) -> dict[str, object]:
    """An image part."""
    return {"type": "image_url", "image_url": {"url": url}}


URLS = [
    (1, "the metadata service", "http://169.254.169.254/latest/meta-data/"),
    (2, "the metadata service by IPv6", "http://[fd00:ec2::254]/latest/meta-data/"),
    (3, "loopback", "http://localhost:9901/quitquitquit"),
    (4, "loopback as one number", "http://2130706433/"),
    (5, "a name that will point at loopback", "http://127.0.0.1.nip.io/"),
    (6, "a file", "file:///etc/passwd"),
    (7, "another protocol", "gopher://127.0.0.1:6379/_FLUSHALL"),
    (8, "a scheme in upper case", "HTTP://169.254.169.254/"),
    (9, "a URL without a scheme", "//169.254.169.254/"),
    (10, "a redirect", "https://example.com/redirect?to=http://169.254.169.254/"),
    (11, "a URL behind a space", " http://169.254.169.254/"),
    (12, "data: in front of another URL", "data:http://169.254.169.254/"),
    (13, "data that is a page", "data:text/html,<script>evil()</script>"),
    (14, "data that is SVG with a link", "data:image/svg+xml;base64,PHN2Zz4="),
    (15, "data without base64", "data:image/png,evil"),
    (16, "data that is no base64", "data:image/png;base64,..//..//etc"),
    (17, "data: in upper case, of a file", "DATA:file:///etc/passwd"),
    (18, "a URL that is none", {"url": PIXEL}),
    (19, "an empty URL", ""),
]
_KINDS = [
    (
        30,
        "sound from a URL",
        {"type": "audio_url", "audio_url": {"url": "http://evil"}},
    ),
    (
        31,
        "a film from a URL",
        {"type": "video_url", "video_url": {"url": "http://evil"}},
    ),
    (32, "a file by its id", {"type": "file", "file": {"file_id": "evil"}}),
    (33, "a file from a URL", {"type": "file_url", "file_url": {"url": "http://evil"}}),
    (
        34,
        "sound within",
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ),
    (35, "an image by its vectors", {"type": "image_embeds", "image_embeds": "AAAA"}),
    (36, "a part without a type", {"image_url": {"url": "http://evil"}}),
    (
        37,
        "a type that is none",
        {"type": ["image_url"], "image_url": {"url": "http://evil"}},
    ),
    (
        38,
        "a text that carries a URL",
        {"type": "text", "text": "a", "image_url": {"url": "http://evil"}},
    ),
    (
        39,
        "an image that carries a second one",
        image(PIXEL) | {"video_url": {"url": "http://evil"}},
    ),
    (
        40,
        "a URL in place of its object",
        {"type": "image_url", "image_url": "http://evil"},
    ),
    (
        41,
        "a URL beside the data",
        {"type": "image_url", "image_url": {"url": PIXEL, "uri": "http://evil"}},
    ),
    (
        42,
        "an image of the cache, by its id",
        {"type": "image_url", "image_url": None, "uuid": "evil"},
    ),
]

ROWS = [
    *rows(
        "ssrf",
        [
            (at, what, _DATA, ask(body=parts(image(it))), INVALID)
            for at, what, it in URLS
        ],
    ),
    *rows(
        "ssrf",
        [(at, what, _PARTS, ask(body=parts(it)), INVALID) for at, what, it in _KINDS],
    ),
    *rows(
        "ssrf",
        [
            (
                50,
                "an image for a model that takes text",
                "extproc: Triton's models take text",
                ask(body=parts(image(PIXEL), model="tiny-chat")),
                INVALID,
            ),
            (
                51,
                "an image as it should be",
                _DATA,
                ask(body=parts({"type": "text", "text": "a"}, image(PIXEL))),
                PASSES,
                lambda received: PIXEL.encode() in received.body,
            ),
        ],
    ),
]
