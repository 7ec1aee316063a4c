#!/usr/bin/env python3
"""What check_layers.py must notice, on a house made for the test."""
import pathlib
import tempfile
import unittest

import check_layers

PAGE = """| Floor | Room | May include | Holds |
|---|---|---|---|
| 2 | `text/` | net | x |
| 1 | `net/` | – | x |
| 1 | `http/` | net | x |
| 0 | `base/` | – | x |
"""


class CheckLayers(unittest.TestCase):
    def house(self, files):
        root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (root / "ARCHITECTURE.md").write_text(PAGE)
        everywhere = {f"src/{room}/a.h": "" for room in ("text", "net", "http", "base")}
        for name, body in {**everywhere, **files}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(body)
        return check_layers.violations(root)

    def test_allowed_arrows_pass(self):
        self.assertEqual(self.house({"src/text/b.cc": '#include "net/a.h"\n#include "base/a.h"\n#include "text/a.h"\n'}), [])

    def test_an_arrow_upward_is_named_with_its_line(self):
        self.assertEqual(self.house({"src/net/b.cc": '\n#include "text/a.h"\n'}), ["src/net/b.cc:2: net may not include text"])

    def test_beast_stays_in_http_sources(self):
        self.assertEqual(self.house({"src/http/b.cc": "#include <boost/beast/http.hpp>\n"}), [])
        self.assertEqual(len(self.house({"src/http/b.h": "#include <boost/beast/http.hpp>\n"})), 1)
        self.assertEqual(len(self.house({"src/net/b.cc": "#include <boost/beast/http.hpp>\n"})), 1)

    def test_rooms_and_table_agree(self):
        self.assertEqual(self.house({"src/extra/a.h": ""}), ["src/extra: this room is not in the table of ARCHITECTURE.md"])


if __name__ == "__main__":
    unittest.main()
