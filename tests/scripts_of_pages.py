"""Sees whether a page or a figure holds nothing that runs or asks for anything, but the project's own scripts."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from fednas_jax.report.template import asset

OWN = {asset(name) for name in ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "page.js")}
LEADS = ("#", "data:,", "data:image/png;base64,")  # inside the file


class Elements(HTMLParser):
    """Collects a page's elements with their attributes, and the scripts' texts."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1][1] += data


def check_page(text):
    """Asserts it; returns the page's elements."""
    assert "\x1b" not in text
    found = Elements()
    found.feed(text)
    for tag, attrs in found.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img"), tag
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action", "srcset", "rdf:resource", "rdf:about"):
                own = value is None or value.startswith(LEADS) or (name == "rdf:resource" and "purl.org" in value)
                assert own or not value, (tag, name, value)
    policy = [
        a["content"]
        for t, a in found.elements
        if t == "meta" and "content-security" in str(a.get("http-equiv")).lower()
    ]
    for attrs, script in found.scripts:
        if attrs.get("type") == "application/json":
            assert not set("<>&\u2028\u2029") & set(script)
            continue
        assert script in OWN
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[0]
    if policy:
        assert not re.search(r"script-src[^;]*unsafe", policy[0])
        assert policy[0].startswith("default-src 'none'")
    return found.elements
