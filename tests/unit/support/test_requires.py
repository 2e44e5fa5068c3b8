import pytest

from tests.support.requires import VARIABLE, require


def test_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIGERBEETLE_BIN", "server")
    assert require("tigerbeetle") == "server"


@pytest.mark.parametrize("required", ["", "chromium", "node,npm-peers"])
def test_absence_skips(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.delenv("TIGERBEETLE_BIN", raising=False)
    monkeypatch.delenv("TIGERBEETLE_REPLICA_ADDRESSES", raising=False)
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.skip.Exception, match="needs TIGERBEETLE_BIN"):
        require("tigerbeetle")


@pytest.mark.parametrize("name", ["node", "chromium"])
def test_absence_fails_when_required(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM_BIN", raising=False)
    monkeypatch.setenv(VARIABLE, f"tigerbeetle,{name}")
    with pytest.raises(pytest.fail.Exception, match=f"{VARIABLE} names {name}"):
        require(name)
