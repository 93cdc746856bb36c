//! `wasi:sockets` for a component that is granted `network`: TCP connections to what is listed, and the worker's resolver
//! for the names that are listed. Everything else is refused: listening, UDP, other names, and the worker's own servers.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::SocketError;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, IpAddress, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, HostNetwork, Network as Handle};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtxView};

use crate::policy::network::{Endpoint, Resolved, Servers, Verdict, judge, may_lead_to, name, ports_of};

/// What one run may reach, and what it learned.
pub(super) struct Network {
    component: String,
    listed: Vec<Endpoint>,
    own: Servers,
    resolved: Mutex<Resolved>,
    /// A refusal is logged once for each run.
    told: AtomicBool,
}

impl Network {
    pub(super) fn new(component: &str, listed: &[Endpoint], own: Servers) -> Arc<Self> {
        Arc::new(Self {
            component: component.to_owned(),
            listed: listed.to_vec(),
            own,
            resolved: Mutex::default(),
            told: AtomicBool::new(false),
        })
    }

    /// Opens what is granted. Each address is judged when it is used, after any name became one.
    pub(super) fn open(self: &Arc<Self>, wasi: &mut WasiCtxBuilder) {
        let network = Arc::clone(self);
        wasi.allow_tcp(true)
            .allow_ip_name_lookup(true)
            .socket_addr_check(move |address, usage| {
                let network = Arc::clone(&network);
                Box::pin(async move { network.allows(address, usage).await })
            });
    }

    async fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            // Connecting binds to a port of the system's choice.
            SocketAddrUse::TcpBind => return address.ip().is_unspecified() && address.port() == 0,
            SocketAddrUse::TcpConnect => {}
            _ => return false,
        }
        let verdict = {
            let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            judge(&self.listed, &resolved, address)
        };
        let (allowed, why) = match verdict {
            Verdict::Listed => (true, ""),
            Verdict::Covered => (
                !is_own(&self.own, address).await,
                " (it is a server of this worker's own, which is open only by its very address)",
            ),
            Verdict::Refused => (false, ""),
        };
        if !allowed && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the component {component} is not granted to connect to {address}{why}; to grant it, add it to its \
                 table in the configuration: [component.{component}] network = [\"{address}\"]",
                component = self.component,
            );
        }
        allowed
    }
}

/// Whether an address is one of the worker's own servers, by whatever name. A server whose name leads nowhere now
/// cannot be told apart, so its port is closed.
async fn is_own(own: &Servers, address: SocketAddr) -> bool {
    let (ip, port, mut found) = (address.ip().to_canonical(), address.port(), false);
    for host in own.at(port) {
        let Ok(addresses) = tokio::net::lookup_host((host, port)).await else {
            return true;
        };
        found |= addresses.into_iter().any(|own| {
            let own = own.ip().to_canonical();
            own == ip || (is_here(own) && is_here(ip))
        });
    }
    found
}

/// Whether an address is one of this machine's: only those can be bound.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// The names that a run asked for, by the stream that answers.
#[derive(Default)]
pub(super) struct Asked(HashMap<u32, (String, HashSet<u16>)>);

/// `ip-name-lookup` for listed names only. What they lead to is remembered for connecting.
pub(super) struct Lookup<'a> {
    pub(super) view: WasiSocketsCtxView<'a>,
    pub(super) network: Option<Arc<Network>>,
    pub(super) asked: &'a mut Asked,
}

/// The type by which the linker knows [`Lookup`].
pub(super) struct Lookups;

impl HasData for Lookups {
    type Data<'a> = Lookup<'a>;
}

impl Host for Lookup<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Handle>,
        text: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        let listed = self.network.as_ref().map_or(&[][..], |network| &network.listed);
        // An address in any spelling needs no resolver; connecting to it is judged as such.
        let Some(name) = name(&text) else {
            return self.view.resolve_addresses(network, text);
        };
        let ports = ports_of(listed, &name);
        if ports.is_empty() {
            return Err(ErrorCode::AccessDenied.into());
        }
        let stream = self.view.resolve_addresses(network, name.clone())?;
        self.asked.0.insert(stream.rep(), (name, ports));
        Ok(stream)
    }
}

impl HostResolveAddressStream for Lookup<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        let rep = stream.rep();
        loop {
            let next = self.view.resolve_next_address(Resource::new_borrow(rep))?;
            let (Some(address), Some((name, ports))) = (next, self.asked.0.get(&rep)) else {
                return Ok(next);
            };
            let ip = ip_of(address);
            if !may_lead_to(name, ip) {
                tracing::warn!("{name} leads to {ip}, which no name may; a component did not get it");
                continue;
            }
            if let Some(network) = &self.network {
                let mut resolved = network.resolved.lock().unwrap_or_else(PoisonError::into_inner);
                resolved.learn(ip, ports);
            }
            return Ok(next);
        }
    }

    fn subscribe(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        HostResolveAddressStream::subscribe(&mut self.view, stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.asked.0.remove(&stream.rep());
        HostResolveAddressStream::drop(&mut self.view, stream)
    }
}

/// The bindings have no conversion in this direction.
fn ip_of(address: IpAddress) -> IpAddr {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]),
    }
}

/// What the bindings ask of whoever answers with a socket's error.
impl network::Host for Lookup<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        self.view.convert_error_code(error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.view.network_error_code(error)
    }
}

impl HostNetwork for Lookup<'_> {
    fn drop(&mut self, network: Resource<Handle>) -> wasmtime::Result<()> {
        HostNetwork::drop(&mut self.view, network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(list: &[(&str, u16)]) -> Servers {
        list.iter()
            .map(|(host, port)| ((*host).to_owned(), *port))
            .collect()
    }

    #[tokio::test]
    async fn the_workers_own_servers_are_known_by_every_name() {
        let own = servers(&[
            ("localhost", 6379),
            ("127.0.0.1", 5672),
            ("no-such-host.invalid", 7000),
        ]);
        for (address, is) in [
            ("127.0.0.1:6379", true),
            ("127.0.0.9:6379", true),
            ("[::1]:5672", true),
            ("127.0.0.1:5673", false),
            ("192.0.2.1:6379", false),
            ("192.0.2.1:7000", true),
        ] {
            assert_eq!(is_own(&own, address.parse().unwrap()).await, is, "{address}");
        }
    }

    #[tokio::test]
    async fn only_connecting_to_what_is_listed_is_allowed() {
        let listed: Vec<Endpoint> = ["127.0.0.0/8:6379", "127.0.0.1:7000", "127.0.0.0/8:8000"]
            .map(|text| Endpoint::read(text).unwrap())
            .into();
        let network = Network::new(
            "db",
            &listed,
            servers(&[("localhost", 6379), ("localhost", 7000)]),
        );
        let connect = SocketAddrUse::TcpConnect;
        for (address, usage, fine) in [
            ("127.0.0.1:8000", connect, true),
            ("127.0.0.1:6379", connect, false),
            ("127.0.0.1:7000", connect, true),
            ("127.0.0.1:9", connect, false),
            ("0.0.0.0:0", SocketAddrUse::TcpBind, true),
            ("127.0.0.1:8000", SocketAddrUse::TcpBind, false),
            ("127.0.0.1:8000", SocketAddrUse::TcpListen, false),
            ("127.0.0.1:8000", SocketAddrUse::TcpAccept, false),
            ("127.0.0.1:8000", SocketAddrUse::UdpSend, false),
        ] {
            let allowed = network.allows(address.parse().unwrap(), usage).await;
            assert_eq!(allowed, fine, "{address} {usage:?}");
        }
    }
}
