//! What a component can import: exactly what is granted, and nothing else is linked.

use wasmtime::Engine;
use wasmtime::component::{Component, HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliCtxView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksCtxView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, io, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomCtx};

use super::bindings::CanvasTask;
use super::guest::Guest;

/// Packages of WASI 0.2 that are granted. They reach nothing: no file, no variable, no network.
const WASI: [&str; 5] = ["cli", "clocks", "filesystem", "io", "random"];
/// Interfaces of our own package.
const OWN: [&str; 4] = ["context", "publisher", "results", "types"];

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Links everything that is granted.
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

/// Whether an import is one that every component is granted, by its name: `package:name/interface@version`.
pub(super) fn is_granted(import: &str) -> bool {
    let Some((path, version)) = import.split_once('@') else {
        return false;
    };
    let Some((package, interface)) = path.split_once('/') else {
        return false;
    };
    match package.split_once(':') {
        Some(("celerybox", "task")) => OWN.contains(&interface) && version.starts_with("0.1."),
        Some(("wasi", name)) => WASI.contains(&name) && version.starts_with("0.2."),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_granted;

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
