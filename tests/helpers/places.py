"""Where the repository's own files are."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
FIXTURES = TESTS / "fixtures"
HELPERS = TESTS / "helpers"
CONFIG = ROOT / "configs" / "voxtral_speaker.yaml"
