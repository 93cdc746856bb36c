//! The wasmtime engine: what components may be made of, and the pool their instances come from.
//! The reasons for each setting are in `docs/sandbox-hardening.md`, sections 4.4 and 4.5.

use std::num::NonZeroUsize;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, OperatorCost, OptLevel,
    PoolingAllocationConfig, Strategy, VariableOperatorCost, WasmBacktraceDetails,
};

use super::{Limits, SandboxError};

/// How often a computing guest is looked at.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// More places than runs: memory of an ended run may still be on its way back into the pool.
const MARGIN: u32 = 8;
/// All memories reserve 4 GiB of addresses each; more of them than this do not fit into a process.
const MOST_MEMORIES: u32 = 24_000;
const MIB: usize = 1024 * 1024;
/// The stack of a guest, and with it the stack of the host functions it calls.
const WASM_STACK: usize = 512 * 1024;
const ASYNC_STACK: usize = 2 * MIB;
/// What an ended run leaves mapped, wiped by writing instead of by giving the pages back: giving back makes every
/// processor of the process flush its address cache, which costs more than the run itself as soon as there are two.
/// Where the kernel tells which pages were written (Linux 6.7), only those are wiped.
const MEMORY_KEPT: usize = MIB / 2;
const TABLE_KEPT: usize = 64 * 1024;
const STACK_KEPT: usize = 64 * 1024;
/// The largest memory a component can have without 64-bit addresses.
const LARGEST_MEMORY: usize = 4 * 1024 * MIB;

/// How many runs, and how many memories of theirs, the pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) runs: u32,
    pub(super) memories: u32,
}

impl Places {
    pub(super) fn new(limits: &Limits, concurrency: u32) -> Self {
        let runs = concurrency.max(1);
        let each = u32::try_from(limits.memories).unwrap_or(u32::MAX).max(1);
        let memories = runs.saturating_mul(each).min(MOST_MEMORIES).max(runs);
        Self { runs, memories }
    }
}

/// Makes the engine. One per process.
pub(super) fn engine(limits: &Limits, places: Places) -> Result<Engine, SandboxError> {
    let engine = Engine::new(&config(limits, places)).map_err(|error| SandboxError::Engine {
        runs: places.runs,
        reason: format!("{error:#}"),
    })?;
    tick(engine.weak()).map_err(SandboxError::Ticker)?;
    Ok(engine)
}

fn config(limits: &Limits, places: Places) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        // The same input gives the same result on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // Proposals that no task needs, each of them attack surface. Threads, exceptions, garbage collection, stack
        // switching and asynchronous components are not even compiled in (the features of the workspace).
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_custom_page_sizes(false)
        .wasm_shared_everything_threads(false)
        .wasm_gc(false)
        .gc_support(false)
        .shared_memory(false)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK)
        // Stacks go from one tenant to the next.
        .async_stack_zeroing(true)
        // Set, because otherwise an environment variable decides whether hostile DWARF is parsed.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(20))
        .debug_info(false)
        .memory_init_cow(true)
        .table_lazy_init(true)
        .guard_before_linear_memory(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits, places)));
    if limits.fuel.is_some() {
        // Growing memory is free by default.
        let cost = OperatorCost {
            variable: VariableOperatorCost {
                memory_grow_per_page: 255,
                ..VariableOperatorCost::default()
            },
            ..OperatorCost::default()
        };
        config.consume_fuel(true).operator_cost(cost);
    }
    config
}

fn pool(limits: &Limits, places: Places) -> PoolingAllocationConfig {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let runs = places.runs.saturating_add(MARGIN);
    // Without that knowledge all of a memory would be wiped, written or not.
    let known = PoolingAllocationConfig::is_pagemap_scan_available();
    let kept = if known { MEMORY_KEPT } else { 0 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(runs)
        .total_stacks(runs)
        .total_core_instances(runs.saturating_mul(count(limits.instances)))
        .total_memories(places.memories.saturating_add(MARGIN))
        .total_tables(runs.saturating_mul(count(limits.tables)))
        .max_core_instances_per_component(count(limits.instances))
        .max_memories_per_component(count(limits.memories))
        .max_tables_per_component(count(limits.tables))
        .max_memories_per_module(1)
        .max_tables_per_module(2)
        // The second wall behind the limiter; it also bounds how long one `memory.fill` takes.
        .max_memory_size(limits.memory.min(LARGEST_MEMORY))
        .table_elements(limits.table_elements)
        .max_core_instance_size(MIB)
        .max_component_instance_size(MIB)
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(kept)
        .table_keep_resident(TABLE_KEPT)
        .async_stack_keep_resident(STACK_KEPT);
    pool
}

/// Starts the thread that makes computing guests stop and look. It ends with the engine.
fn tick(engine: EngineWeak) -> std::io::Result<()> {
    let ticker = std::thread::Builder::new().name("epoch-ticker".into());
    ticker.spawn(move || {
        loop {
            std::thread::sleep(TICK);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_a_place_for_every_run_and_fits_into_a_process() {
        let limits = Limits::default();
        assert_eq!(
            Places::new(&limits, 10),
            Places {
                runs: 10,
                memories: 40
            }
        );
        assert_eq!(Places::new(&limits, 0).runs, 1);
        assert_eq!(Places::new(&limits, 10_000).memories, MOST_MEMORIES);
        assert_eq!(Places::new(&limits, 30_000).memories, 30_000);
    }

    #[test]
    fn what_no_task_needs_is_off() {
        let engine = engine(&Limits::default(), Places { runs: 1, memories: 1 }).unwrap();
        for (name, _) in engine.get_wasm_features().iter_names() {
            let refused = [
                "THREADS",
                "MEMORY64",
                "MULTI_MEMORY",
                "CUSTOM_PAGE_SIZES",
                "STACK_SWITCHING",
                "GC",
                "GC_TYPES",
                "EXCEPTIONS",
                "LEGACY_EXCEPTIONS",
                "CM_ASYNC",
                "CM_THREADING",
            ];
            assert!(!refused.contains(&name), "{name}");
        }
        assert!(engine.get_epoch_interruption());
        assert!(!engine.get_shared_memory());
        assert!(!engine.get_concurrency_support());
        assert!(!engine.get_debug_info());
        assert!(engine.get_async_stack_zeroing());
        assert!(engine.get_relaxed_simd_deterministic());
        assert_eq!(engine.get_cranelift_nan_canonicalization(), Some(true));
        assert_eq!(engine.get_wasm_backtrace_max_frames(), 20);
        assert!(engine.get_async_stack_size() - engine.get_max_wasm_stack() >= MIB);
        let pool = engine.get_pooling_config().unwrap();
        assert_eq!(pool.get_max_memory_size(), Limits::default().memory);
    }
}
