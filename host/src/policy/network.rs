//! Where a component may connect to: the entries of `network` in its table, and the decision about one address.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use url::Host;

/// One entry of `network`: a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host.
    pub host: Place,
    /// The port.
    pub port: u16,
}

/// What stands before the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name, in lower case and punycode.
    Name(String),
    /// An address, or all that begin with these bits.
    Network(IpAddr, u8),
}

impl Endpoint {
    /// Reads `db.internal:5432`, `10.0.0.7:443`, `10.0.0.0/8:443` or `[fd00::1]:6379`.
    pub fn read(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "{text:?}: expected host:port, for example db.internal:5432, 10.0.0.0/8:443 or [fd00::1]:6379"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?;
        let (base, bits) = match host.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (host, None),
        };
        let host = match (address(base), bits) {
            (Some(address), None) => Place::Network(address, width(address)),
            (Some(address), Some(bits)) => {
                let bits: Option<u8> = bits.parse().ok().filter(|bits| *bits <= width(address));
                Place::Network(address, bits.ok_or_else(expected)?)
            }
            (None, None) => Place::Name(name(base).ok_or_else(expected)?),
            (None, Some(_)) => return Err(expected()),
        };
        match host {
            Place::Network(address, bits) if bits == width(address) && address.is_unspecified() => {
                Err(format!(
                    "{text:?}: the unspecified address is this machine by another name; write 127.0.0.1 if you mean that"
                ))
            }
            host => Ok(Self { host, port }),
        }
    }

    /// Whether this entry names exactly this address, not just a range around it.
    fn is_exactly(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        self.host == Place::Network(ip, width(ip)) && self.port == address.port()
    }

    fn covers(&self, address: SocketAddr) -> bool {
        match self.host {
            Place::Network(base, bits) => self.port == address.port() && begins(base, bits, address.ip()),
            Place::Name(_) => false,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Place::Name(name) => write!(f, "{name}:{port}"),
            Place::Network(IpAddr::V4(address), 32) => write!(f, "{address}:{port}"),
            Place::Network(IpAddr::V6(address), 128) => write!(f, "[{address}]:{port}"),
            Place::Network(IpAddr::V4(address), bits) => write!(f, "{address}/{bits}:{port}"),
            Place::Network(IpAddr::V6(address), bits) => write!(f, "[{address}]/{bits}:{port}"),
        }
    }
}

/// An address as people write one; no octal, no single number.
fn address(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address: IpAddr = inside.unwrap_or(text).parse().ok()?;
    Some(address.to_canonical())
}

/// A host name as it is compared: lower case, punycode, no dot at the end. What is an address in any spelling
/// (`0x7f.1`, `2130706433`) is no name.
pub fn name(text: &str) -> Option<String> {
    match Host::parse(text).ok()? {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            let label = |label: &str| {
                !label.is_empty()
                    && label
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            };
            name.split('.').all(label).then(|| name.to_owned())
        }
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn begins(base: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let left = 32u32.saturating_sub(bits.into());
            let cut = |ip: Ipv4Addr| u32::from(ip).checked_shr(left).unwrap_or(0);
            cut(base) == cut(address)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let left = 128u32.saturating_sub(bits.into());
            let cut = |ip: Ipv6Addr| u128::from(ip).checked_shr(left).unwrap_or(0);
            cut(base) == cut(address)
        }
        _ => false,
    }
}

/// The ports that are listed for a name; none when it is not listed.
pub fn ports_of(listed: &[Endpoint], asked: &str) -> HashSet<u16> {
    let ports = listed.iter().filter_map(|endpoint| match &endpoint.host {
        Place::Name(name) if name == asked => Some(endpoint.port),
        _ => None,
    });
    ports.collect()
}

/// Whether a listed name may lead to this address. Names of a company's own network lead to private addresses, but none
/// but `localhost` to this machine, and none to a neighbour on the wire (where clouds keep their metadata), to groups, or
/// to nothing: whoever answers for the name could otherwise lead the component there (DNS rebinding).
pub fn may_lead_to(name: &str, address: IpAddr) -> bool {
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    let forbidden_v4 = |ip: Ipv4Addr| {
        (ip.is_loopback() && !is_localhost)
            || ip.octets()[0] == 0
            || ip.is_link_local()
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip.octets()[0] >= 240
    };
    let forbidden_v6 = |ip: Ipv6Addr| {
        (ip.is_loopback() && !is_localhost)
            || ip.is_unspecified()
            || ip.is_unicast_link_local()
            || ip.is_multicast()
    };
    match (address.to_canonical(), inner(address)) {
        (IpAddr::V4(ip), _) => !forbidden_v4(ip),
        (IpAddr::V6(ip), inner) => !forbidden_v6(ip) && !inner.is_some_and(forbidden_v4),
    }
}

/// The IPv4 address inside of a compatible, NAT64 or 6to4 one.
fn inner(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = address else { return None };
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] if !ip.is_loopback() && !ip.is_unspecified() => v4(g, h),
        [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0x2002, ..] => v4(b, c),
        _ => None,
    }
}

/// What a run learned from the worker's resolver: the ports it may use at each address that a listed name led to.
#[derive(Debug, Default)]
pub struct Resolved(HashMap<IpAddr, HashSet<u16>>);

impl Resolved {
    /// Notes where a name led.
    pub fn learn(&mut self, address: IpAddr, ports: &HashSet<u16>) {
        self.0.entry(address.to_canonical()).or_default().extend(ports);
    }

    fn allows(&self, address: SocketAddr) -> bool {
        let ports = self.0.get(&address.ip());
        ports.is_some_and(|ports| ports.contains(&address.port()))
    }
}

/// A host and its port.
pub type Server = (String, u16);

/// The servers that the worker itself talks to, closed to components unless one of them lists the very address. Clones are
/// the same list: sentinels name some of them only while the worker runs.
#[derive(Debug, Clone, Default)]
pub struct Servers(Arc<RwLock<BTreeSet<Server>>>);

impl Servers {
    /// Adds one.
    pub fn add(&self, server: Server) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(server);
    }

    /// The hosts of those at this port.
    pub fn at(&self, port: u16) -> Vec<String> {
        let servers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let hosts = servers.iter().filter(|(_, theirs)| *theirs == port);
        hosts.map(|(host, _)| host.clone()).collect()
    }
}

impl PartialEq for Servers {
    fn eq(&self, other: &Self) -> bool {
        let ours = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        ours == *other.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Server> for Servers {
    fn from_iter<T: IntoIterator<Item = Server>>(servers: T) -> Self {
        Self(Arc::new(RwLock::new(servers.into_iter().collect())))
    }
}

/// Why a connection is made or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is listed by its very address.
    Listed,
    /// It lies in a listed range, or a listed name led there; the worker's own servers stay closed.
    Covered,
    /// It is not listed.
    Refused,
}

/// Judges an address that a component wants to connect to.
pub fn judge(listed: &[Endpoint], resolved: &Resolved, address: SocketAddr) -> Verdict {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if address.ip().is_unspecified() {
        return Verdict::Refused;
    }
    if listed.iter().any(|endpoint| endpoint.is_exactly(address)) {
        return Verdict::Listed;
    }
    match listed.iter().any(|endpoint| endpoint.covers(address)) || resolved.allows(address) {
        true => Verdict::Covered,
        false => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| Endpoint::read(text).unwrap()).collect()
    }

    #[test]
    fn an_entry_is_a_host_and_a_port() {
        for text in [
            "db.internal:5432",
            "10.0.0.7:443",
            "10.0.0.0/8:443",
            "[fd00::1]:6379",
            "[fd00::]/8:1",
        ] {
            let endpoint = Endpoint::read(text).unwrap();
            let shown = endpoint.to_string();
            assert_eq!(Endpoint::read(&shown), Ok(endpoint), "{shown}");
        }
        assert_eq!(Endpoint::read("DB.Internal.:1"), Endpoint::read("db.internal:1"));
        assert_eq!(
            Endpoint::read("b\u{fc}cher.example:1").unwrap().to_string(),
            "xn--bcher-kva.example:1"
        );
        for text in [
            "",
            "db",
            "db:",
            "db:0",
            "db:65536",
            ":80",
            "http://db:80",
            "u@db:80",
            "*.example:80",
            "db:80/x",
            "10.0.0.0/33:1",
            "db/8:1",
            "0x7f000001:80",
            "2130706433:80",
            "127.1:80",
            "0177.0.0.1:80",
            "0.0.0.0:80",
            "[::]:80",
            "a b:1",
        ] {
            assert!(Endpoint::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_what_is_listed_is_reached() {
        let listed = list(&[
            "10.0.0.0/8:443",
            "192.0.2.1:80",
            "[2001:db8::5]:80",
            "db.internal:5432",
        ]);
        let mut resolved = Resolved::default();
        resolved.learn("172.16.0.9".parse().unwrap(), &ports_of(&listed, "db.internal"));
        for (address, verdict) in [
            ("10.255.0.1:443", Verdict::Covered),
            ("10.255.0.1:80", Verdict::Refused),
            ("11.0.0.1:443", Verdict::Refused),
            ("192.0.2.1:80", Verdict::Listed),
            ("[::ffff:192.0.2.1]:80", Verdict::Listed),
            ("192.0.2.2:80", Verdict::Refused),
            ("[2001:db8::5]:80", Verdict::Listed),
            ("172.16.0.9:5432", Verdict::Covered),
            ("172.16.0.9:5433", Verdict::Refused),
            ("172.16.0.8:5432", Verdict::Refused),
            ("0.0.0.0:443", Verdict::Refused),
            ("[::]:80", Verdict::Refused),
        ] {
            assert_eq!(
                judge(&listed, &resolved, address.parse().unwrap()),
                verdict,
                "{address}"
            );
        }
        let all = list(&["0.0.0.0/0:1"]);
        assert_eq!(
            judge(&all, &Resolved::default(), "0.0.0.0:1".parse().unwrap()),
            Verdict::Refused
        );
        assert_eq!(
            judge(&all, &Resolved::default(), "9.9.9.9:1".parse().unwrap()),
            Verdict::Covered
        );
    }

    #[test]
    fn a_name_does_not_lead_to_this_machine_or_to_metadata() {
        for (address, fine) in [
            ("10.0.0.1", true),
            ("93.184.216.34", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("127.8.9.9", false),
            ("::1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("::", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
            ("::ffff:127.0.0.1", false),
            ("::127.0.0.1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("2002:7f00:1::", false),
            ("64:ff9b::0a00:0001", true),
        ] {
            assert_eq!(
                may_lead_to("db.internal", address.parse().unwrap()),
                fine,
                "{address}"
            );
        }
        assert!(may_lead_to("localhost", "127.0.0.1".parse().unwrap()));
        assert!(may_lead_to("localhost", "::1".parse().unwrap()));
        assert!(!may_lead_to("localhost", "169.254.169.254".parse().unwrap()));
        assert!(!may_lead_to("notlocalhost", "127.0.0.1".parse().unwrap()));
    }
}
