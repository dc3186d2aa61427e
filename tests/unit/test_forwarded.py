"""Tests of ``daphne_like.asgi.forwarded``."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from daphne_like.asgi.forwarded import ForwardedPolicy
from daphne_like.settings import ProxySettings

PROXY = ("127.0.0.1", 40000)
STRANGER = ("203.0.113.66", 40000)


def policy(
    *trusted: str, host: str = "X-Forwarded-For", port: str = "X-Forwarded-Port"
) -> ForwardedPolicy:
    """The policy of a server started with these proxies on its trust list."""
    made = ForwardedPolicy.from_settings(
        ProxySettings(
            proxy_headers=True,
            proxy_headers_host=host,
            proxy_headers_port=port,
            forwarded_allow_ips=trusted or ("127.0.0.1", "::1", "unix"),
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


def test_an_empty_root_path_is_one() -> None:
    """A proxy may take back the --root-path of the settings."""
    shown = policy().resolve(PROXY, "http", [(b"daphne-root-path", b"")])

    assert shown.root_path == ""
    assert shown.headers == []


# Anything at all


pieces = st.sampled_from(
    [
        *(b"127.0.0.1", b"10.0.0.5", b"203.0.113.9", b"[::1]", b"::ffff:10.0.0.1"),
        *(b"2001:db8::1", b"unknown", b",", b", ", b":80", b"[", b"]", b"%", b'"'),
        b"\xff",
    ]
)
values = st.binary(max_size=60) | st.lists(pieces, max_size=8).map(b"".join)
names = st.sampled_from(
    [
        b"x-forwarded-for",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"daphne-root-path",
        b"host",
    ]
)
header_lists = st.lists(st.tuples(names, values), max_size=8)
policies = st.sampled_from(
    [policy(), policy("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"), policy("*")]
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
