//! What a component can import: exactly what is granted, and nothing else is linked.

use wasmtime::Engine;
use wasmtime::component::{Component, HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliCtxView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksCtxView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, io, random, sockets};
use wasmtime_wasi::random::{WasiRandom, WasiRandomCtx};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsCtxView};

use super::bindings::CanvasTask;
use super::guest::Guest;
use super::network::{Lookup, Lookups};
use crate::policy::grants::Grants;

/// Packages of WASI 0.2 that every component may import. Unless something is granted they reach nothing: no file and no
/// variable.
const WASI: [&str; 5] = ["cli", "clocks", "filesystem", "io", "random"];
/// Interfaces of our own package. What `publisher` and `results` do is a grant that each call asks for.
const OWN: [&str; 4] = ["context", "publisher", "results", "types"];

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Links what every component may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    CanvasTask::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;

    io::error::add_to_linker::<Guest, Table>(l, |guest| &mut guest.table)?;
    io::poll::add_to_linker::<Guest, Table>(l, |guest| &mut guest.table)?;
    io::streams::add_to_linker::<Guest, Table>(l, |guest| &mut guest.table)?;

    clocks::wall_clock::add_to_linker::<Guest, WasiClocks>(l, wasi_clocks)?;
    clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(l, wasi_clocks)?;

    random::random::add_to_linker::<Guest, WasiRandom>(l, wasi_random)?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(l, wasi_random)?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(l, wasi_random)?;

    filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(l, wasi_filesystem)?;
    filesystem::types::add_to_linker::<Guest, WasiFilesystem>(l, wasi_filesystem)?;

    cli::exit::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::environment::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::stdin::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::stdout::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::stderr::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(l, wasi_cli)?;
    Ok(linker)
}

/// Links what one component is granted beyond that.
pub(super) fn link_granted(l: &mut Linker<Guest>, grants: &Grants) -> wasmtime::Result<()> {
    if grants.network.is_empty() {
        return Ok(());
    }
    // UDP, binding and listening are there because languages import all of it; using them is refused.
    sockets::tcp::add_to_linker::<Guest, WasiSockets>(l, wasi_sockets)?;
    sockets::tcp_create_socket::add_to_linker::<Guest, WasiSockets>(l, wasi_sockets)?;
    sockets::udp::add_to_linker::<Guest, WasiSockets>(l, wasi_sockets)?;
    sockets::udp_create_socket::add_to_linker::<Guest, WasiSockets>(l, wasi_sockets)?;
    sockets::instance_network::add_to_linker::<Guest, WasiSockets>(l, wasi_sockets)?;
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<Guest, WasiSockets>(l, &options, wasi_sockets)?;
    sockets::ip_name_lookup::add_to_linker::<Guest, Lookups>(l, lookup)
}

fn wasi_sockets(guest: &mut Guest) -> WasiSocketsCtxView<'_> {
    let (wasi, table) = guest.wasi();
    WasiSocketsCtxView {
        ctx: wasi.sockets(),
        table,
    }
}

fn lookup(guest: &mut Guest) -> Lookup<'_> {
    guest.lookup()
}

fn wasi_clocks(guest: &mut Guest) -> WasiClocksCtxView<'_> {
    let (wasi, table) = guest.wasi();
    WasiClocksCtxView {
        ctx: wasi.clocks(),
        table,
    }
}

fn wasi_random(guest: &mut Guest) -> &mut WasiRandomCtx {
    guest.wasi().0.random()
}

fn wasi_filesystem(guest: &mut Guest) -> WasiFilesystemCtxView<'_> {
    let (wasi, table) = guest.wasi();
    WasiFilesystemCtxView {
        ctx: wasi.filesystem(),
        table,
    }
}

fn wasi_cli(guest: &mut Guest) -> WasiCliCtxView<'_> {
    let (wasi, table) = guest.wasi();
    WasiCliCtxView {
        ctx: wasi.cli(),
        table,
    }
}

/// The names of everything a component imports.
pub(super) fn imports(engine: &Engine, component: &Component) -> Vec<String> {
    let component = component.component_type();
    component
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Whether an import is one that a component with these grants may have, by its name: `package:name/interface@version`.
pub(super) fn is_granted(import: &str, grants: &Grants) -> bool {
    let Some((path, version)) = import.split_once('@') else {
        return false;
    };
    let Some((package, interface)) = path.split_once('/') else {
        return false;
    };
    match package.split_once(':') {
        Some(("celerybox", "task")) => OWN.contains(&interface) && version.starts_with("0.1."),
        Some(("wasi", name)) => {
            let granted = name == "sockets" && !grants.network.is_empty();
            (granted || WASI.contains(&name)) && version.starts_with("0.2.")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Endpoint;

    #[test]
    fn sockets_are_granted_with_a_network() {
        let grants = Grants {
            network: vec![Endpoint::read("db:1").unwrap()],
            ..Grants::default()
        };
        assert!(super::is_granted("wasi:sockets/tcp@0.2.0", &grants));
        assert!(!super::is_granted("wasi:sockets/tcp@0.3.0", &grants));
        assert!(!super::is_granted("wasi:http/types@0.2.0", &grants));
    }

    fn is_granted(import: &str) -> bool {
        super::is_granted(import, &Grants::default())
    }

    #[test]
    fn only_our_own_interfaces_and_harmless_wasi_are_granted() {
        for import in [
            "celerybox:task/context@0.1.0",
            "celerybox:task/publisher@0.1.0",
            "celerybox:task/types@0.1.0",
            "wasi:cli/stderr@0.2.6",
            "wasi:io/streams@0.2.0",
            "wasi:filesystem/preopens@0.2.3",
        ] {
            assert!(is_granted(import), "{import}");
        }
        for import in [
            "wasi:sockets/tcp@0.2.0",
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:cli/stderr@0.3.0",
            "wasi:cli/stderr",
            "celerybox:task/context@0.2.0",
            "celerybox:task/secrets@0.1.0",
            "celerybox:tasks/context@0.1.0",
            "evil:cli/stderr@0.2.0",
            "log",
            "",
        ] {
            assert!(!is_granted(import), "{import}");
        }
    }
}
