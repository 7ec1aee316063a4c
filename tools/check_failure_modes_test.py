#!/usr/bin/env python3
"""What check_failure_modes.py must notice, on a house made for the test."""
import pathlib
import tempfile
import unittest
import unittest.mock

import check_failure_modes

FILES = {
    "src/room/deep/x_test.cc": "TEST(Suite, Name) {\n}\nTEST_F(Fixture, One) {\n}\nTEST_P(Many,\n       Two) {\n}\n// TEST(Suite, Commented)\n",
    "tests/simulation/y_test.cc": "TEST(All, Together) {\n}\n",
    "tests/system/test_x.py": "class A:\n    def test_one(self):\n        pass\n",
    "tests/dialects/d.txt": "# words\n== a case; with: signs\n> client: POST /\n",
    "tests/traces/t.trace": "engine a\n",
}
GOOD = ["`room: Suite.Name`", "`room: Fixture.One`<br>`room: Many.Two`", "`simulation: All.Together`", "`tests/system/test_x.py: test_one`",
        "`tests/dialects/d.txt: a case; with: signs`, `tests/traces/t.trace`"]


class CheckFailureModes(unittest.TestCase):
    def found(self, rows: list[str], others: str = "") -> list[str]:
        root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        table = "## A\n\n| # | Failure | Outcome | Tests |\n|---|---|---|---|\n" + "".join(rows)
        for name, body in {**FILES, "docs/failure-modes.md": table + others}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(body)
        with unittest.mock.patch.object(check_failure_modes, "TABLES", {"## A": len(GOOD)}):
            return [line.removeprefix("docs/failure-modes.md: ## A: ") for line in check_failure_modes.problems(root)]

    def rows(self, changed: dict[int, str] | None = None) -> list[str]:
        return [f"| {i} | fails | ends | {(changed or {}).get(i, tests)} |\n" for i, tests in enumerate(GOOD, 1)]

    def test_each_form_of_a_test_is_found(self):
        self.assertEqual(self.found(self.rows(), "## B\n| 9 | x | y | z |\n"), [])

    def test_a_row_that_is_missing_or_out_of_order_is_named(self):
        self.assertEqual(self.found(self.rows()[:2] + self.rows()[3:]), ["row 3 is missing"])
        self.assertEqual(len(self.found(self.rows()[::-1])), 1)
        self.assertEqual(len(self.found(self.rows() + self.rows()[:1])), 1)

    def test_a_row_without_a_test_or_an_outcome_is_named(self):
        self.assertEqual(self.found(self.rows({2: "later"})), ["row 2: no test"])
        self.assertEqual(self.found(["| 1 | fails | | `room: Suite.Name` |\n", *self.rows()[1:]]),
                         ["row 1: 4 cells, expected four with words in them"])

    def test_a_test_that_does_not_exist_is_named(self):
        for name in ("room: Suite.Other", "room: Suite.Commented", "other: Suite.Name", "simulation: Suite.Name", "tests/system/test_x.py: test_on",
                     "tests/system/test_y.py: test_one", "tests/dialects/d.txt: a case", "tests/traces/u.trace", "Suite.Name", "a word"):
            with self.subTest(name):
                lines = self.found(self.rows({4: f"`{name}`"}))
                self.assertEqual(len(lines), 1)
                self.assertIn(f"row 4: `{name}`: ", lines[0])


if __name__ == "__main__":
    unittest.main()
