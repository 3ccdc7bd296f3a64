"""What `doctor` finds out, over real sockets, and that no secret is in what it tells."""

import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from integration.sockets import Host, reply
from serving import served

from kling_async.cli.app import run as run_command
from kling_async.cli.asking import _ask, _Watched
from kling_async.cli.reaching import Line, Unreachable, _within, read_certificate
from kling_async.cli.settings import Settings
from kling_async.protocol.auth import APIKey
from kling_async.protocol.providers import COMETAPI, KLING, PROVIDERS
from kling_async.simulator import Faults, Pack, Simulator, serve
from kling_async.typing import Transport

KEY = "api-Known0Text1Of2An3Api4Key5"
ACCESS, SECRET = "AccessKnown0Text1Of2Access", "SecretKnown0Text1Of2Secret3"
PAIR = {"KLING_ACCESS_KEY": ACCESS, "KLING_SECRET_KEY": SECRET}
PASSWORD = "ProxyKnown0Password"
EMPTY_LIST = reply(200, b'{"code":0,"data":[]}', Content_Type="application/json")

VARIABLES = {
    *("KLING_PROVIDER", "KLING_BASE_URL", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
    *(name for one in PROVIDERS.values() for name in one.env),
    *(f"KLING{ai}_{kind}_KEY" for ai in ("", "AI") for kind in ("ACCESS", "SECRET")),
    *("HTTP_PROXY", "ALL_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
}
"""Everything of the environment that is looked at."""

Doctor = Callable[..., tuple[int, str]]
"""Runs the command with these variables; returns its exit code and what it told."""


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """The command, in an environment of the variables given; none of the secrets may be in what it tells."""

    def examine(*options: str, **env: str) -> tuple[int, str]:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        code = run_command(["doctor", *options])
        told = capsys.readouterr()
        for secret in (KEY, ACCESS, SECRET, PASSWORD):
            assert secret[:8] not in told.out
            assert secret[-8:] not in told.out
        assert told.err == ""
        assert "--json" in options or "Nothing was submitted and nothing was paid." in told.out
        return code, told.out

    return examine


def line(out: str, label: str) -> str:
    """The line of *label* with its mark, and its advice behind it."""
    lines = out.splitlines()
    (place,) = (n for n, each in enumerate(lines) if each[2:].startswith(f"{label:<13} "))
    advice = lines[place + 1] if place + 1 < len(lines) and "→" in lines[place + 1] else ""
    return f"{lines[place]}{advice}"


@contextmanager
def simulated(**settings: Any) -> Generator[tuple[str, Simulator]]:
    """A simulator that knows our keys, on a port."""
    settings = {"api_keys": {KEY}, "access_keys": {ACCESS: SECRET}, **settings}
    simulator = Simulator(**settings)
    with served(serve(simulator)) as url:
        yield url, simulator


def test_all_is_well(doctor: Doctor):
    """With a good key everything that is tried works; the packs are told, and nothing is submitted."""
    with simulated() as (url, simulator):
        code, out = doctor(KLING_API_KEY=f'"{KEY}"', KLING_BASE_URL=url)
    assert code == 0
    assert line(out, "key") == f"✓ key           KLING_API_KEY: an API key of {len(KEY)} characters"
    assert line(out, "provider").endswith(f"kling (by the key), at {url} (by KLING_BASE_URL)")
    assert line(out, "key accepted").startswith("✓")
    assert line(out, "clock") == "✓ clock         agrees with the server's"
    assert "Trial-Video-100Units-5Con-1Months: 100 of 100 units left" in line(out, "packs")
    assert "5 tasks at once" in line(out, "slots")
    assert "Nothing is paid twice." in line(out, "lost replies")
    assert "aiohttp" in line(out, "versions")
    assert "cli" in line(out, "extras")
    assert out.splitlines()[-1].startswith("All is well.")
    assert set(simulator.ledger.requests) == {"list", "account"}


def test_an_access_key(doctor: Doctor):
    """An access key and its secret are told as such, and are tried out with a signed token."""
    with simulated() as (url, _):
        code, out = doctor(KLING_ACCESS_KEY=ACCESS, KLINGAI_SECRET_KEY=SECRET, KLING_BASE_URL=url)
    assert code == 0
    assert "KLING_ACCESS_KEY and KLINGAI_SECRET_KEY: an access key and its secret of" in line(out, "key")


def test_a_refused_key(doctor: Doctor):
    """A refused key is a problem with what to do; packs are not asked for."""
    with simulated(api_keys={"another"}) as (url, simulator):
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 1
    found = line(out, "key accepted")
    assert found.startswith("✗")
    assert "1002" in found
    assert "copy the key again" in found
    assert "1 problem." in out
    assert "account" not in simulator.ledger.requests


@pytest.mark.parametrize(
    ("skew", "keys", "code", "accepted", "mark", "told"),
    [
        (-60, PAIR, 1, "✗", "✗", r"[56]\d s ahead of"),
        (1790, PAIR, 1, "✓", "✗", "30 min behind"),
        (-3600, {"KLING_API_KEY": KEY}, 0, "✓", "!", "60 min ahead of"),
        (-8 * 3600, {"KLING_API_KEY": KEY}, 0, "✓", "!", "8.0 h ahead of"),
        (20, {"KLING_API_KEY": KEY}, 0, "✓", " ", r"[12]\d s behind"),
    ],
)
def test_a_clock_that_is_off(
    doctor: Doctor, skew: float, keys: Any, code: int, accepted: str, mark: str, told: str
):
    """A clock ahead makes an access key's tokens early, one behind makes them late; an API key has none."""
    with simulated(faults=Faults.parse(f"any:clock_skew seconds={skew}")) as (url, _):
        got, out = doctor(**keys, KLING_BASE_URL=url)
    assert got == code
    found = line(out, "clock")
    assert found.startswith(mark)
    assert re.search(told, found)
    assert line(out, "key accepted").startswith(accepted)


def test_nothing_listens(doctor: Doctor, free_port: int):
    """A port where nothing listens fails at the connection, and later steps are not told."""
    code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=f"http://127.0.0.1:{free_port}")
    assert code == 1
    assert f"nothing listens at 127.0.0.1, port {free_port}" in line(out, "connection")
    assert "key accepted" not in out
    assert "versions" in out


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nothing listens at."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def test_a_name_nobody_knows(doctor: Doctor):
    """A host that has no address fails at its name."""
    code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL="https://no-such-host.invalid")
    assert code == 1
    assert "no-such-host.invalid" in line(out, "name")
    assert "HTTPS_PROXY" in line(out, "name")


def test_a_name_that_no_host_can_have(doctor: Doctor):
    """A label too long for any name is told as a name that nobody knows."""
    code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=f"https://{'a' * 70}.com")
    assert code == 1
    assert "nobody knows the name aaaa" in line(out, "name")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply(200, b"<html><title>Sign in</title></html>", Content_Type="text/html"), "a web page came"),
        (
            reply(302, Location="https://login.example.com/in?next=secret"),
            "a redirect to https://login.example.com/in came",
        ),
        (reply(302, Location="/login"), "a redirect came"),
        (reply(200, b'"hello"'), "a JSON reply that is no object"),
        (reply(503), "an empty reply (HTTP 503)"),
    ],
)
def test_something_else_answers(doctor: Doctor, answer: bytes, told: str):
    """A web page or a redirect in place of the API is told as what it is, with where it leads."""
    with served(Host(answer).serve()) as url:
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 1
    assert told in line(out, "API")
    assert "→" in line(out, "API")
    assert "secret" not in out


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_the_date_of_a_server(doctor: Doctor, seconds: float):
    """The clock is held against the Date header of whoever answers."""
    answer = reply(200, b'{"code":0,"data":[]}', Date=formatdate(time.time() + seconds, usegmt=True))
    with served(Host(answer).serve()) as url:
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 0
    assert f"60 min {'behind' if seconds > 0 else 'ahead of'}" in line(out, "clock")


def test_an_account_that_may_not(doctor: Doctor):
    """A key that is known and an account that is refused are told apart."""
    with simulated(faults=Faults.parse("list:refuse code=1304")) as (url, _):
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 1
    assert "allow-list" in line(out, "account")


DAY = 86_400


@pytest.mark.parametrize(
    ("packs", "told"),
    [
        ([], "none is valid and has units left"),
        ([Pack("a-9Con", total=0)], "none is valid and has units left"),
        ([Pack("soon-9Con", valid=2 * DAY)], "it ends soon"),
        ([Pack("tail-9Con", age=31 * DAY)], "expired"),
    ],
)
def test_packs_that_will_not_do(doctor: Doctor, packs: Any, told: str):
    """No usable pack, or one that ends, is worth a look; the account may be billed otherwise, so no more."""
    with simulated(packs=packs) as (url, _):
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 0
    assert told in out
    assert "to look at" in out


def test_slots_are_those_of_the_largest_video_pack(doctor: Doctor):
    """Over several packs the largest counts; one for images does not."""
    packs = [Pack("Video-5Con"), Pack("Video-20Con"), Pack("Image-50Con"), Pack("Video-30Con", total=0)]
    with simulated(packs=packs) as (url, _):
        _, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert "20 tasks at once" in line(out, "slots")


def test_packs_that_cannot_be_read(doctor: Doctor):
    """Packs that cannot be read are no problem of the setup: the key was accepted."""
    with simulated(faults=Faults.parse("account:refuse code=1103")) as (url, _):
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 0
    assert line(out, "packs").startswith("! packs         cannot be read: ")
    assert "learned from refusals" in line(out, "slots")


@pytest.mark.parametrize(
    ("face", "env", "told"),
    [
        ("cometapi", {"COMETAPI_KEY": KEY}, "is said to find tasks"),
        ("new-api-2025", {"KLING_API_KEY": KEY, "KLING_PROVIDER": "new-api"}, "finds no task"),
        ("new-api-2026", {"EZMODEL_API_KEY": KEY}, "finds no task"),
    ],
)
def test_a_gateway(doctor: Doctor, face: str, env: Any, told: str):
    """A gateway has no list and no packs: that a task does not exist is the good answer."""
    with simulated(face=face) as (url, simulator):
        code, out = doctor(**env, KLING_BASE_URL=url)
        refused, other = doctor(
            **{name: value.replace(KEY, "another") for name, value in env.items()}, KLING_BASE_URL=url
        )
    assert code == 0
    assert "asking for a task works" in line(out, "key accepted")
    assert "learned from refusals" in line(out, "slots")
    assert told in line(out, "lost replies")
    assert refused == 1
    assert "takes its own keys" in line(other, "key accepted")
    assert set(simulator.ledger.requests) == {"query"}


def test_no_key(doctor: Doctor):
    """Without a key the variables are named; the exit code is 2."""
    code, out = doctor()
    assert code == 2
    assert "KLING_API_KEY" in line(out, "settings")
    assert "versions" in out


def test_an_empty_key(doctor: Doctor):
    """A variable that is there and empty is the fact one looks for."""
    code, out = doctor(KLING_API_KEY="")
    assert code == 2
    assert line(out, "key").endswith("KLING_API_KEY is empty")


@pytest.mark.skipif(sys.platform == "win32", reason="handles are not closed so there")
def test_without_a_stdout(bare_command: Any):
    """Where there is no stdout at all, it ends as it does with one."""
    done = subprocess.run(
        [sys.executable, "-m", "kling_async", "doctor"],
        env=bare_command.env,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.close(1),
        timeout=30,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


def test_contradictory_keys(doctor: Doctor):
    """Keys of several providers and no choice: both are told, and what chooses."""
    code, out = doctor(
        KLING_API_KEY=KEY, COMETAPI_KEY=ACCESS, KLING_BASE_URL="https://relay.example.org/?k=1"
    )
    assert code == 2
    assert f"KLING_API_KEY is set, {len(KEY)} characters long" in out
    assert f"COMETAPI_KEY is set, {len(ACCESS)} characters long" in out
    assert "set KLING_PROVIDER" in line(out, "settings")
    assert line(out, "base URL").endswith("https://relay.example.org/")


def test_half_an_access_key(doctor: Doctor):
    """An access key without its secret is told by the variable that is missing."""
    code, out = doctor(KLING_ACCESS_KEY=ACCESS, KLING_PROVIDER="kling")
    assert code == 2
    assert "KLING_SECRET_KEY" in line(out, "settings")
    assert "KLING_PROVIDER=kling" in line(out, "provider")


def test_keys_that_are_not_used(doctor: Doctor, free_port: int):
    """Every key that is set and not used is told, and why."""
    _, out = doctor(
        KLING_API_KEY=KEY,
        KLINGAI_API_KEY=ACCESS,
        KLING_ACCESS_KEY=ACCESS,
        KLING_SECRET_KEY="  ",
        COMETAPI_KEY=SECRET,
        KLING_PROVIDER="kling",
        KLING_BASE_URL=f"http://127.0.0.1:{free_port}",
    )
    ignored = dict(re.findall(r"ignored +(\w+): (.+)", out))
    assert ignored == {
        "KLINGAI_API_KEY": "KLING_API_KEY goes before it",
        "KLING_ACCESS_KEY": "an API key goes before an access key",
        "KLING_SECRET_KEY": "it is empty",
        "COMETAPI_KEY": "it is a key of cometapi, and KLING_PROVIDER chose kling",
    }


def test_what_a_gateway_does_not_take(doctor: Doctor, free_port: int):
    """A key of Kling's is told as such where a gateway was chosen by --provider."""
    url = f"http://127.0.0.1:{free_port}"
    _, out = doctor(
        "--provider",
        "cometapi",
        "--base-url",
        url,
        COMETAPI_KEY=KEY,
        KLING_ACCESS_KEY=ACCESS,
        KLING_SECRET_KEY=SECRET,
    )
    assert "cometapi (by --provider), at" in line(out, "provider")
    assert "(by --base-url)" in line(out, "provider")
    assert "KLING_ACCESS_KEY: it is a key of kling, and --provider chose cometapi" in out


def test_a_provider_at_anothers_host(doctor: Doctor):
    """KLING_PROVIDER and KLING_BASE_URL that contradict each other are worth a look."""
    code, out = doctor(
        KLING_API_KEY=KEY, KLING_PROVIDER="kling", KLING_BASE_URL=COMETAPI.base_url, HTTPS_PROXY="nonsense"
    )
    assert code == 2
    assert line(out, "provider").startswith("!")
    assert "set KLING_PROVIDER=cometapi" in line(out, "provider")


@pytest.mark.parametrize(
    "proxy", [f"me:{PASSWORD}@proxy:3128", f"socks5://me:{PASSWORD}@proxy:1", "http://proxy:x"]
)
def test_a_proxy_that_is_none(doctor: Doctor, proxy: str):
    """A proxy in another form is refused without showing it."""
    code, out = doctor(KLING_API_KEY=KEY, HTTPS_PROXY=proxy)
    assert code == 2
    assert "is no URL of an HTTP proxy" in line(out, "proxy")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (
            {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": ".invalid"},
            "NO_PROXY excludes no-such.invalid",
        ),
        ({"ALL_PROXY": "http://proxy:1"}, "none: HTTPS_PROXY is obeyed, and ALL_PROXY is not"),
        ({}, "none"),
    ],
)
def test_why_there_is_no_proxy(doctor: Doctor, env: Any, told: str):
    """Where no proxy is used although one is set, the reason is told."""
    _, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL="https://no-such.invalid", **env)
    assert line(out, "proxy").endswith(told)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply(407), "wants a user name and a password"),
        (reply(403), "does not let us through to api.example.org:443 (HTTP 403)"),
        (b"220 mail.example.org\r\n\r\n", "does not answer as an HTTP proxy does"),
        (b"hello", "does not answer as an HTTP proxy does"),
    ],
)
def test_a_proxy_that_refuses(doctor: Doctor, answer: bytes, told: str):
    """What a proxy says is told apart from the host behind it; its password goes to it alone, unseen."""
    host = Host(answer)
    with served(host.serve()) as url:
        proxy = url.replace("http://", f"http://me:{PASSWORD}@")
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL="https://api.example.org", HTTPS_PROXY=proxy)
    assert code == 1
    assert told in line(out, "tunnel")
    assert f"{url} (HTTPS_PROXY) with a user and a password" in line(out, "proxy")
    assert host.asked[0][""] == "CONNECT api.example.org:443 HTTP/1.1"
    assert host.asked[0]["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("file", "told"),
    [("nowhere.pem", "No such file"), ("empty.pem", "empty.pem cannot be used")],
)
def test_certificates_that_cannot_be_read(
    doctor: Doctor, file: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file of certificates that is not there, or is none, is told before anything is tried."""
    monkeypatch.chdir(tmp_path)
    Path("empty.pem").touch()
    code, out = doctor(KLING_API_KEY=KEY, SSL_CERT_FILE=file)
    assert code == 2
    assert told in line(out, "certificates")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ssl.SSLContext]]:
    """Makes a certificate signed by itself for a name or address, and a server's context with it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificates with the openssl command, which is not here")

    def make(name: str) -> tuple[Path, ssl.SSLContext]:
        folder = tmp_path_factory.mktemp("certificate")
        key, file = folder / "key.pem", folder / "certificate.pem"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        named = ["-subj", "/O=Example Inspection/CN=Gate", "-addext", f"subjectAltName={name}"]
        command = [openssl, *words.split(), *named, "-keyout", str(key), "-out", str(file)]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file, key)
        return file, context

    return make


@asynccontextmanager
async def secured(context: ssl.SSLContext, answer: bytes = EMPTY_LIST) -> AsyncGenerator[str]:
    """A TLS server that gives this answer to everything."""
    server = await asyncio.start_server(Host(answer)._answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_certificate_nobody_vouches_for(doctor: Doctor, certificate: Any):
    """Who issued it is shown, for it may be one's company; the key is not sent there."""
    _, context = certificate("IP:127.0.0.1")
    with served(secured(context)) as url:
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 1
    found = line(out, "TLS")
    assert found.startswith("✗")
    assert "issued by Example Inspection, Gate, valid until 20" in found
    assert "SSL_CERT_FILE" in found
    assert "key accepted" not in out


def test_a_certificate_of_a_file(doctor: Doctor, certificate: Any):
    """A certificate that SSL_CERT_FILE vouches for is good, and its issuer is told all the same."""
    file, context = certificate("IP:127.0.0.1")
    with served(secured(context)) as url:
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url, SSL_CERT_FILE=str(file))
    assert code == 0
    assert line(out, "TLS").startswith("✓")
    assert "issued by Example Inspection, Gate" in line(out, "TLS")
    assert str(file) in line(out, "certificates")
    assert line(out, "key accepted").startswith("✓")


def test_a_certificate_for_another_host(doctor: Doctor, certificate: Any):
    """A trusted certificate of another host is told as that."""
    file, context = certificate("DNS:other.example.org")
    with served(secured(context)) as url:
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url, SSL_CERT_FILE=str(file))
    assert code == 1
    assert "check the base URL" in line(out, "TLS")


@pytest.mark.parametrize("answer", [reply(400), b""])
def test_a_port_without_tls(doctor: Doctor, answer: bytes):
    """Https to a port that speaks none, or hangs up, fails at TLS and not at the connection."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    @asynccontextmanager
    async def plain() -> AsyncGenerator[str]:
        server = await asyncio.start_server(answered, "127.0.0.1", 0)
        async with server:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    with served(plain()) as url:
        code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL=url)
    assert code == 1
    assert line(out, "connection").startswith("✓")
    assert line(out, "TLS").startswith("✗")


def test_through_a_proxy(doctor: Doctor, certificate: Any):
    """Behind a proxy the tunnel is a step of its own, and TLS is with the host behind it."""
    file, context = certificate("DNS:api.example.org")
    with served(secured(context)) as target:
        port = int(target.rpartition(":")[2])

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Join the client with the server, whatever host it asked for."""
            there, back = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                await asyncio.gather(pour(reader, back), pour(there, writer))
            finally:
                back.transport.abort()
                writer.transport.abort()

        host = Host(relay)
        with served(host.serve()) as url:
            proxy = url.replace("http://", f"http://me:{PASSWORD}@")
            env = {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(file)}
            code, out = doctor(KLING_API_KEY=KEY, KLING_BASE_URL="https://api.example.org", **env)
            refused, other = doctor(
                KLING_API_KEY=KEY, KLING_BASE_URL="https://api.example.org", HTTPS_PROXY=proxy
            )
    assert code == 0
    assert "lets us through to api.example.org:443" in line(out, "tunnel")
    assert line(out, "TLS").startswith("✓")
    assert line(out, "key accepted").startswith("✓")
    assert refused == 1
    assert "issued by Example Inspection" in line(other, "TLS")


async def pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass everything on until the end."""
    try:
        while piece := await source.read(65536):
            sink.write(piece)
    except ConnectionError:
        pass
    finally:
        sink.close()


def test_json(doctor: Doctor):
    """--json is one object: whether all is well, every line with its state, and the packs in full."""
    with simulated() as (url, _):
        code, out = doctor("--json", KLING_API_KEY=KEY, KLING_BASE_URL=url)
        document = json.loads(out)
    assert (code, document["ok"], document["exit_code"]) == (0, True, 0)
    assert (document["provider"], document["base_url"]) == ("kling", url)
    assert (document["packs"][0]["remaining"], document["packs"][0]["slots"]) == (100.0, 5)
    assert {"label", "text", "state", "advice"} == set(document["lines"][0])
    code, out = doctor("--json")
    assert (code, json.loads(out)["ok"], json.loads(out)["exit_code"]) == (2, False, 2)


def test_on_a_terminal(doctor: Doctor):
    """On a terminal long lines are broken below their beginning; a pipe has each on one line."""
    with simulated() as (url, _):
        env = {"KLING_API_KEY": KEY, "KLING_BASE_URL": url, "COLUMNS": "80", "NO_COLOR": "1"}
        code, out = doctor(**env, FORCE_COLOR="1")
        _, piped = doctor(**env, FORCE_COLOR="")
    assert code == 0
    shown = re.sub(r"\x1b\[\d*m", "", out).splitlines()
    assert max(map(len, shown)) <= 80
    assert any(re.match(r" {16}\S", each) for each in shown)
    assert not any(re.match(r" {16}\S", each) for each in piped.splitlines())


def test_a_file_of_variables_that_is_not_there(doctor: Doctor):
    """--env-file without a file is a problem of the configuration like any other."""
    code, out = doctor("--env-file", "nowhere.env")
    assert code == 2
    assert "nowhere.env cannot be read" in line(out, "settings")


def test_where_a_key_is_set(doctor: Doctor, tmp_path: Path, free_port: int):
    """With --env-file the key's line says whether it is the file's, or the environment's that goes before."""
    file = tmp_path / "kling.env"
    file.write_text(f"KLING_API_KEY={KEY}\nKLING_BASE_URL=http://127.0.0.1:{free_port}\n")
    _, out = doctor("--env-file", str(file))
    assert line(out, "key").endswith(f"of {len(KEY)} characters, from the file")
    _, out = doctor("--env-file", str(file), KLING_API_KEY="another")
    assert line(out, "key").endswith("of 7 characters, from the environment, which goes before the file")


def test_ctrl_c(doctor: Doctor, tmp_path: Path):
    """Ctrl-C ends it at once, with 130 and a word on money."""
    asked = threading.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()

    with served(Host(silent).serve()) as url:
        code = "import sys; from kling_async.cli.app import run; sys.exit(run(['doctor']))"
        env = {"KLING_API_KEY": KEY, "KLING_BASE_URL": url, "PATH": "", "PYTHONPATH": ":".join(sys.path)}
        with subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert asked.wait(20)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines() == ["interrupted; nothing was submitted and nothing was paid"]
    assert KEY not in out


class Silent:
    """A transport that never answers."""

    async def send(self, request: Any, **_: Any) -> Any:
        """Wait for ever."""
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """Nothing to close."""


def test_a_step_has_ten_seconds():
    """Whatever does not come within 10 s is a problem, and the next step is not waited for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(Unreachable) as caught:
            await _within("TLS", asyncio.Event().wait(), "ask")
        assert caught.value.line == Line("TLS", "nothing came within 10 s", "wrong", "ask")
        assert loop.time() == 10
        transport: Transport = Silent()
        settings = Settings(credentials=APIKey(KEY), provider=KLING, proxy=None, ssl=None)
        told: list[Line] = []
        assert await _ask(_Watched(transport), settings, told.append) == []
        assert loop.time() == 20
        assert told == [Line("key accepted", "no reply within 10 s", "wrong", "try again later")]

    virtual_time.run(main())


@pytest.mark.parametrize(
    "der", [None, b"", b"\x30", b"\x30\x05\x30", b"0\x820", bytes(40), b"\x30\x02\x05\x00"]
)
def test_a_certificate_that_cannot_be_read(der: Any):
    """What is no certificate has no issuer and no end, and is no error."""
    assert str(read_certificate(der)) == "certificate issued by somebody unnamed"
