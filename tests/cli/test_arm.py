import pytest
from typer.testing import CliRunner

from cli.main import app
from serving import arm_check
from serving.arm_check import Finding


def check(url: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["arm", "check", url, "--dataset", "simulator"])
    return answer.exit_code, answer.output


def test_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = check("http://127.0.0.1:9/decide")
    assert code == 1 and " 1 faults" in text and text.startswith("fault"), text
    code, text = check("my-policy")
    assert code == 2 and "'my-policy'" in text, text
    monkeypatch.setattr(arm_check, "check_arm", lambda *_: [Finding(False, "no propensity")])
    code, text = check("http://127.0.0.1:9/decide")
    assert code == 0 and " 0 faults, 1 notes" in text and "note   no propensity" in text, text
