"""Tests of ``daphne_like.asgi.forwarded``."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from daphne_like.asgi.forwarded import Forwarded, ForwardedPolicy
from daphne_like.settings import ProxySettings

PROXY = ("127.0.0.1", 40000)
STRANGER = ("203.0.113.66", 40000)


def policy(*trusted: str, **names: str) -> ForwardedPolicy:
    """
    The policy of a server started with these proxies on its trust list.

    Names are those of settings, without what all of them begin with.
    """
    settings: dict[str, Any] = {
        f"proxy_headers_{name}": value for name, value in names.items()
    }
    made = ForwardedPolicy.from_settings(
        ProxySettings(
            proxy_headers=True,
            forwarded_allow_ips=trusted or ("127.0.0.1", "::1", "unix"),
            **settings,
        )
    )
    assert made is not None
    return made


def client_for(
    chain: str,
    *trusted: str,
    peer: tuple[str, int] | None = PROXY,
    port: str | None = None,
) -> tuple[str, int] | None:
    """The client shown to the application for this X-Forwarded-For."""
    headers = [(b"x-forwarded-for", chain.encode("latin-1"))]
    if port is not None:
        headers.append((b"x-forwarded-port", port.encode("latin-1")))
    return policy(*trusted).resolve(peer, "http", headers).client


def test_the_headers_have_names_of_your_choice() -> None:
    """A proxy with names of its own is understood; an empty name reads no header."""
    headers = [
        (b"x-forwarded-for", b"203.0.113.1"),
        (b"x-forwarded-port", b"1"),
        (b"x-forwarded-proto", b"ftp"),
        (b"x-scheme", b"https"),
    ]
    made = ForwardedPolicy.from_settings(
        ProxySettings(
            proxy_headers=True, proxy_headers_port="", proxy_headers_proto="X-Scheme"
        )
    )
    assert made is not None
    told = made.resolve(PROXY, "http", headers)

    assert ("203.0.113.1", 0) == told.client
    assert "https" == told.scheme


# Whom to believe


def test_without_the_option_nothing_is_believed() -> None:
    """A server started without --proxy-headers has no work with them."""
    assert ForwardedPolicy.from_settings(ProxySettings()) is None


def test_the_headers_of_a_stranger_change_nothing() -> None:
    """A client that connects directly can't choose its address or root path."""
    headers = [
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-port", b"1"),
        (b"x-forwarded-proto", b"https"),
        (b"daphne-root-path", b"/admin"),
    ]
    shown = policy().resolve(STRANGER, "http", headers)

    assert shown == (STRANGER, "http", None, headers)


def test_a_request_without_these_headers_stays_as_it_is() -> None:
    """What the proxy asks for itself, a health check, shows the proxy."""
    headers = [(b"host", b"example.org")]
    shown = policy().resolve(PROXY, "http", headers)

    assert shown == (PROXY, "http", None, headers)


# The client


@pytest.mark.parametrize(
    ("chain", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.5", "203.0.113.9"),
        ("6.6.6.6,203.0.113.9 ,\t10.0.0.5,10.0.0.6", "203.0.113.9"),
        ("10.0.0.7, 10.0.0.5", "10.0.0.7"),
        ("203.0.113.9, ::ffff:10.0.0.5", "203.0.113.9"),
        ("::FFFF:203.0.113.9", "203.0.113.9"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("203.0.113.9, , 10.0.0.5,,", "203.0.113.9"),
    ],
)
def test_the_client_is_the_first_stranger_from_the_right(
    chain: str, address: str
) -> None:
    """What a client puts into the header itself never becomes its address."""
    assert client_for(chain, "127.0.0.1", "10.0.0.0/8") == (address, 0)


@pytest.mark.parametrize(
    "element",
    [
        "unknown",
        "_hidden",
        '"203.0.113.9"',
        "localhost",
        "203.0.113",
        "203.0.113.256",
        "203.0.113.09",
        "203.0.113.9:port",
        "203.0.113.9:",
        "203.0.113.9:123456",
        "[2001:db8::1",
        "2001:db8::1]:443",
        "[2001:db8::1]443",
        "[]",
        "fe80::1%eth0",
        "[fe80::1%\x7f]",
        "::1::",
        "203.0.113.9\x00",
        "\xb2.0.0.1",
        "'; drop table clients",
        "1" * 5000,
    ],
)
def test_what_is_no_address_ends_the_search(element: str) -> None:
    """The client shown is then the last one a trusted proxy has seen."""
    assert client_for(element) == PROXY
    assert client_for(element, port="77") == PROXY
    assert client_for(f"6.6.6.6, {element}, 10.0.0.5", "127.0.0.1", "10.0.0.0/8") == (
        "10.0.0.5",
        0,
    )


def test_trusting_everyone_takes_the_left_most() -> None:
    """With * on the list, the first address of the chain is the client, as in Daphne."""
    assert client_for("198.51.100.1, 203.0.113.9", "*") == ("198.51.100.1", 0)


def test_several_lines_are_one_chain() -> None:
    """A proxy that adds a line instead of an element is understood as well."""
    headers = [
        (b"x-forwarded-for", b"6.6.6.6, 203.0.113.9"),
        (b"host", b"example.org"),
        (b"x-forwarded-for", b"10.0.0.5"),
    ]
    shown = policy("127.0.0.1", "10.0.0.0/8").resolve(PROXY, "http", headers)

    assert shown.client == ("203.0.113.9", 0)
    assert shown.headers == headers


def test_a_proxy_on_a_unix_socket() -> None:
    """A proxy in front of a Unix socket gives the client an address."""
    assert client_for("203.0.113.9", peer=None) == ("203.0.113.9", 0)
    assert client_for("unknown", peer=None) is None


def test_other_header_names() -> None:
    """--proxy-headers-host and --proxy-headers-port name what is read instead."""
    headers = [
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"x-forwarded-port", b"66"),
        (b"x-real-ip", b"203.0.113.9"),
        (b"x-real-port", b"50778"),
    ]
    shown = policy(host="X-Real-IP", port="X-Real-Port").resolve(PROXY, "http", headers)

    assert shown.client == ("203.0.113.9", 50778)


# Its port


@pytest.mark.parametrize(
    ("element", "client"),
    [
        ("203.0.113.9:567", ("203.0.113.9", 567)),
        ("203.0.113.9:65535", ("203.0.113.9", 65535)),
        ("203.0.113.9:65536", ("203.0.113.9", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("2001:db8::1:443", ("2001:db8::1:443", 0)),
    ],
)
def test_an_element_may_have_a_port(element: str, client: tuple[str, int]) -> None:
    """Azure writes ports into the chain; they are told from IPv6 by brackets."""
    assert client_for(f"6.6.6.6, {element}") == client


def test_trusted_hops_may_have_ports() -> None:
    """A proxy in the middle is known by its address, whatever its port."""
    assert client_for("203.0.113.9:5, [::1]:443") == ("203.0.113.9", 5)


@pytest.mark.parametrize(
    ("port", "number"),
    [
        ("50778", 50778),
        ("1, 50778", 50778),
        (" 50778 ,", 50778),
        ("65536", 0),
        ("-1", 0),
        ("+1", 0),
        ("1_0", 0),
        ("\xb2", 0),
        ("", 0),
        ("9" * 5000, 0),
    ],
)
def test_the_header_with_the_port(port: str, number: int) -> None:
    """The port is 0 unless X-Forwarded-Port says it in plain digits."""
    assert client_for("203.0.113.9", port=port) == ("203.0.113.9", number)


def test_the_port_in_the_chain_is_the_client_s() -> None:
    """X-Forwarded-Port often is the proxy's own port; the chain knows better."""
    assert client_for("203.0.113.9:567", port="443") == ("203.0.113.9", 567)


def test_a_port_alone_is_not_looked_at() -> None:
    """Without an address, the port would be joined to the proxy's address."""
    headers = [(b"x-forwarded-port", b"50778")]

    assert policy().resolve(PROXY, "http", headers).client == PROXY


# The scheme


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        ([b"https"], "https"),
        ([b"http"], "http"),
        ([b"HTTPS"], "https"),
        ([b"http, https"], "https"),
        ([b"https, http"], "http"),
        ([b"http", b"https"], "https"),
        ([b"https,"], "https"),
        ([b"https, gopher"], "given"),
        ([b"wss"], "https"),
        ([b"ws"], "http"),
        ([b"ftp"], "given"),
        ([b"https\xff"], "given"),
        ([b""], "given"),
        ([], "given"),
    ],
)
def test_the_scheme(values: list[bytes], scheme: str) -> None:
    """The nearest proxy decides between http and https; nothing else counts."""
    headers = [(b"x-forwarded-proto", value) for value in values]

    assert policy().resolve(PROXY, "given", headers).scheme == scheme


# The root path


def test_the_root_path_of_a_trusted_proxy() -> None:
    """Daphne-Root-Path says where we are mounted, and the application gets none."""
    headers = [
        (b"host", b"example.org"),
        (b"daphne-root-path", b"/attack"),
        (b"daphne-root-path", b"/caf%C3%A9/100%25"),
        (b"accept", b"*/*"),
    ]
    received = list(headers)
    shown = policy().resolve(PROXY, "http", headers)

    assert shown.root_path == "/café/100%"
    assert shown.headers == [(b"host", b"example.org"), (b"accept", b"*/*")]
    assert headers == received, "the list of the request stays as received"


@pytest.mark.parametrize(
    "value", [b"//evil.example", b"/\\evil.example", b"/%09/evil.example", b"/%0aa"]
)
def test_no_root_path_is_another_host(value: bytes) -> None:
    """
    A client may have written it, where the proxy doesn't empty what it doesn't know:
    redirects still lead to where it came from.
    """
    told = policy().resolve(PROXY, "http", [(b"daphne-root-path", value)])

    assert (None, []) == (told.root_path, told.headers)


def test_an_empty_root_path_is_one() -> None:
    """A proxy may take back the --root-path of the settings."""
    shown = policy().resolve(PROXY, "http", [(b"daphne-root-path", b"")])

    assert shown.root_path == ""
    assert shown.headers == []


# The host


HOST = (b"host", b"internal:8000")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([b"example.org"], b"example.org"),
        ([b"example.org:8443"], b"example.org:8443"),
        ([b"[2001:db8::1]:443"], b"[2001:db8::1]:443"),
        ([b"evil.example, example.org"], b"example.org"),
        ([b"evil.example", b"example.org"], b"example.org"),
        ([b"example.org/path"], b"internal:8000"),
        ([b"user@example.org"], b"internal:8000"),
        ([b"example.org:port"], b"internal:8000"),
        ([b"a b"], b"internal:8000"),
        ([b"a\x80"], b"internal:8000"),
        ([b""], b"internal:8000"),
    ],
)
def test_the_host_which_the_client_asked_for(values: list[bytes], shown: bytes) -> None:
    """X-Forwarded-Host takes the place of Host, if it is one."""
    headers = [HOST, *((b"x-forwarded-host", value) for value in values)]
    told = policy(authority="X-Forwarded-Host").resolve(PROXY, "http", headers)

    hosts = [value for name, value in told.headers if name == b"host"]
    assert [shown] == hosts
    assert headers[1:] == told.headers[1:], "the others stay"


def test_the_host_is_read_only_when_asked_for() -> None:
    """Many proxies let clients write these two headers, so they have to be named."""
    headers = [
        HOST,
        (b"x-forwarded-host", b"evil.example"),
        (b"x-forwarded-prefix", b"/evil"),
        (b"forwarded", b"for=203.0.113.9;host=evil.example"),
    ]

    assert policy().resolve(PROXY, "http", headers) == (PROXY, "http", None, headers)
    strangers = policy(authority="X-Forwarded-Host", prefix="X-Forwarded-Prefix")
    assert strangers.resolve(STRANGER, "http", headers).headers == headers


# The prefix


@pytest.mark.parametrize(
    ("values", "root_path"),
    [
        ([b"/app"], "/app"),
        ([b"/app/"], "/app"),
        ([b"/a/b"], "/a/b"),
        ([b"/caf%C3%A9"], "/caf\xe9"),
        ([b"/evil", b"/app"], "/app"),
        ([b"/evil, /app"], "/app"),
        ([b"/"], ""),
        ([b""], ""),
        ([b"app"], None),
        ([b"//evil.example"], None),
        ([b"/\\evil.example"], None),
        ([b"/%2Fevil.example"], None),
        ([b"https://evil.example"], None),
        ([b"/%09/evil.example"], None),
        ([b"/app%0d%0ax: y"], None),
    ],
)
def test_the_prefix(values: list[bytes], root_path: str | None) -> None:
    """X-Forwarded-Prefix says where the application is; never another host."""
    headers = [(b"x-forwarded-prefix", value) for value in values]
    told = policy(prefix="X-Forwarded-Prefix").resolve(PROXY, "http", headers)

    assert root_path == told.root_path
    assert headers == told.headers


def test_the_prefix_comes_before_daphnes_root_path() -> None:
    """Who names a header expects that one to count."""
    headers = [(b"x-forwarded-prefix", b"/app"), (b"daphne-root-path", b"/other")]
    told = policy(prefix="X-Forwarded-Prefix").resolve(PROXY, "http", headers)

    assert ("/app", headers[:1]) == (told.root_path, told.headers)


# RFC 7239


def forwarded(
    *lines: str, trusted: tuple[str, ...] = ("127.0.0.1", "10.0.0.0/8")
) -> Forwarded:
    """What the application sees for these lines of Forwarded."""
    headers = [HOST, *((b"forwarded", line.encode("latin-1")) for line in lines)]
    return policy(*trusted, forwarded="only").resolve(PROXY, "http", headers)


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("for=203.0.113.9", ("203.0.113.9", 0)),
        ('for="203.0.113.9:567"', ("203.0.113.9", 567)),
        ('FOR="[2001:db8::1]:4711"', ("2001:db8::1", 4711)),
        ('for="[2001:db8::1]"', ("2001:db8::1", 0)),
        ('for="203.0.113.9:_port"', ("203.0.113.9", 0)),
        ("by=10.0.0.1;for=203.0.113.9;proto=http", ("203.0.113.9", 0)),
        ("by=10.0.0.1 ; for=203.0.113.9 ;\tproto=http", ("203.0.113.9", 0)),
        ("for=6.6.6.6, for=203.0.113.9, for=10.0.0.5", ("203.0.113.9", 0)),
        ("for=6.6.6.6,for=203.0.113.9,,for=10.0.0.5, ,", ("203.0.113.9", 0)),
        ("for=6.6.6.6, for=unknown, for=10.0.0.5", ("10.0.0.5", 0)),
        ("for=6.6.6.6, for=_hidden, for=10.0.0.5", ("10.0.0.5", 0)),
        ("for=6.6.6.6, proto=https, for=10.0.0.5", ("10.0.0.5", 0)),
        ("for=10.0.0.7, for=10.0.0.5", ("10.0.0.7", 0)),
        ("for=unknown", PROXY),
        ("for=_hidden", PROXY),
        ("for=2001:db8::1", PROXY),
        ("for=203.0.113.9:567", PROXY),
        ("for=203.0.113.256", PROXY),
        ('for="203.0.113.9', PROXY),
        ('for="203\\.0.113.9"', PROXY),
        ("for=", PROXY),
        ("for", PROXY),
        ("for=203.0.113.9;", PROXY),
        ("for=6.6.6.6;for=203.0.113.9", PROXY),
        ("", PROXY),
        (",", PROXY),
    ],
)
def test_the_client_in_forwarded(line: str, client: tuple[str, int]) -> None:
    """As in X-Forwarded-For: the first stranger from the right."""
    assert client == forwarded(line).client


@pytest.mark.parametrize(
    "sent",
    [
        'for="',
        'for="6.6.6.6',
        'for=6.6.6.6;host="',
        'host="a, for=6.6.6.6',
        "for=6.6.6.6\\",
        'for="\\',
        "for=6.6.6.6;",
    ],
)
@pytest.mark.parametrize("node", ["203.0.113.9", '"[2001:db8::1]:80"'])
def test_a_client_cannot_swallow_what_the_proxy_appends(sent: str, node: str) -> None:
    """A quoted string which it begins, and doesn't end, changes nothing."""
    expected = ("203.0.113.9", 0) if node[0] == "2" else ("2001:db8::1", 80)

    assert expected == forwarded(f"{sent}, for={node}").client
    assert expected == forwarded(sent, f"for={node}").client


def test_scheme_and_host_in_forwarded() -> None:
    """They are those which the proxy nearest to the client has seen, of ours."""
    told = forwarded(
        "for=6.6.6.6;proto=http;host=evil.example",
        "for=203.0.113.9;proto=https;host=example.org, for=10.0.0.5;proto=http;host=x",
    )

    assert ("https", ("203.0.113.9", 0)) == (told.scheme, told.client)
    assert (b"host", b"example.org") == told.headers[0]
    assert 1 == [name for name, _ in told.headers].count(b"host")


def test_a_scheme_without_a_client() -> None:
    """Some proxies tell just that."""
    told = forwarded('proto=https;host="example.org:8443"')

    assert (PROXY, "https") == (told.client, told.scheme)
    assert (b"host", b"example.org:8443") == told.headers[0]
    assert "http" == forwarded("for=203.0.113.9;proto=gopher").scheme


@pytest.mark.parametrize(
    ("choice", "both", "only_x", "only_forwarded"),
    [
        ("ignore", "1.1.1.1", "1.1.1.1", PROXY[0]),
        ("prefer", "2.2.2.2", "1.1.1.1", "2.2.2.2"),
        ("only", "2.2.2.2", PROXY[0], "2.2.2.2"),
    ],
)
def test_one_kind_of_headers_counts(
    choice: str, both: str, only_x: str, only_forwarded: str
) -> None:
    """Which one it is when both come is said by a setting; they are never mixed."""
    made = policy(forwarded=choice, authority="X-Forwarded-Host")
    x = [
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"x.example"),
    ]
    rfc = [(b"forwarded", b"for=2.2.2.2")]
    for headers, address in ((x + rfc, both), (x, only_x), (rfc, only_forwarded)):
        told = made.resolve(PROXY, "http", headers)
        assert told.client is not None
        assert address == told.client[0]
        assert ("https" if address == "1.1.1.1" else "http") == told.scheme
        assert (b"host" in dict(told.headers)) == (address == "1.1.1.1")


def test_forwarded_that_cannot_be_read_hides_the_others() -> None:
    """A client can't choose which kind is read by breaking the one that counts."""
    headers = [(b"x-forwarded-for", b"1.1.1.1"), (b"forwarded", b"nonsense")]

    assert PROXY == policy(forwarded="prefer").resolve(PROXY, "http", headers).client


@given(st.binary(max_size=60), st.ip_addresses())
@example(b'for="', ipaddress.ip_address("203.0.113.9"))
def test_nobody_can_choose_an_address_in_forwarded(
    sent: bytes, true: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    """Behind one trusted proxy, the client is the address this proxy has seen."""
    mapped = getattr(true, "ipv4_mapped", None)
    assume(not (mapped or true).is_loopback)
    node = b'"[%b]"' if true.version == 6 else b"%b"
    line = sent + b", for=" + node % true.exploded.encode()
    headers = [(b"forwarded", line)]
    told = policy(forwarded="only").resolve(PROXY, "http", headers)

    assert (str(mapped or true), 0) == told.client


# Anything at all


pieces = st.sampled_from(
    [
        *(b"127.0.0.1", b"10.0.0.5", b"203.0.113.9", b"[::1]", b"::ffff:10.0.0.1"),
        *(b"2001:db8::1", b"unknown", b",", b", ", b":80", b"[", b"]", b"%", b'"'),
        *(b"for=", b";", b"host=", b"proto=https", b"/", b"example.org"),
        b"\xff",
    ]
)
values = st.binary(max_size=60) | st.lists(pieces, max_size=8).map(b"".join)
names = st.sampled_from(
    [
        b"x-forwarded-for",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"forwarded",
        b"daphne-root-path",
        b"host",
    ]
)
header_lists = st.lists(st.tuples(names, values), max_size=8)
policies = st.sampled_from(
    [
        policy(),
        policy("127.0.0.1", "10.0.0.0/8", "2001:db8::/32", forwarded="only"),
        policy(
            "*",
            forwarded="prefer",
            authority="X-Forwarded-Host",
            prefix="X-Forwarded-Prefix",
        ),
    ]
)
peers = st.none() | st.tuples(
    st.sampled_from(["127.0.0.1", "::1", "203.0.113.66", "fe80::1%eth0", "nonsense"]),
    st.integers(0, 65535),
)


@given(policies, peers, header_lists)
def test_no_header_can_break_a_request(
    the_policy: ForwardedPolicy,
    peer: tuple[str, int] | None,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """Whatever is sent, the application gets a real address, port and scheme."""
    client, scheme, _, _ = the_policy.resolve(peer, "http", headers)

    assert scheme in ("http", "https")
    if client != peer:
        assert client is not None
        assert str(ipaddress.ip_address(client[0])) == client[0]
        assert 0 <= client[1] <= 65535


@given(values, st.ip_addresses())
@example(b"6.6.6.6", ipaddress.ip_address("203.0.113.9"))
@example(b"6.6.6.6", ipaddress.ip_address("::ffff:203.0.113.9"))
def test_nobody_can_choose_an_address(
    sent: bytes, true: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    """Behind one trusted proxy, the client is the address this proxy has seen."""
    chain = sent + b", " + str(true.exploded).encode()
    shown = policy().resolve(PROXY, "http", [(b"x-forwarded-for", chain)])
    mapped = getattr(true, "ipv4_mapped", None)
    assume(not (mapped or true).is_loopback)

    assert shown.client == (str(mapped or true), 0)


@given(st.lists(values, min_size=1, max_size=5))
def test_lines_and_elements_are_the_same(lines: list[bytes]) -> None:
    """It makes no difference whether proxies add lines or elements."""
    the_policy = policy("127.0.0.1", "10.0.0.0/8")
    apart = [(b"x-forwarded-for", line) for line in lines]
    joined = [(b"x-forwarded-for", b",".join(lines))]
    several = the_policy.resolve(PROXY, "http", apart)
    one = the_policy.resolve(PROXY, "http", joined)

    assert several.client == one.client
