//! Counts what a run has, over all its memories and tables, and remembers what it was refused.

use wasmtime::ResourceLimiter;

use super::Limits;

/// What one run has and may have.
#[derive(Debug)]
pub(super) struct Usage {
    memory: usize,
    memory_limit: usize,
    peak_memory: usize,
    elements: usize,
    elements_limit: usize,
    instances: usize,
    memories: usize,
    tables: usize,
    refused: Option<Refused>,
}

/// What a run asked for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// More memory.
    Memory,
    /// More table elements.
    Elements,
}

impl Usage {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            memory: 0,
            memory_limit: limits.memory,
            peak_memory: 0,
            elements: 0,
            elements_limit: limits.table_elements,
            instances: limits.instances,
            memories: limits.memories,
            tables: limits.tables,
            refused: None,
        }
    }

    /// The most memory the run had, bytes.
    pub(super) fn peak_memory(&self) -> usize {
        self.peak_memory
    }

    /// The last thing it was refused.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

impl ResourceLimiter for Usage {
    /// Refusing is an answer (`memory.grow` says -1), not a trap: a language can report it as its own error.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_sub(current).saturating_add(desired);
        if total > self.memory_limit {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Its own maximum, not a limit of ours.
            return Ok(false);
        }
        self.memory = total;
        self.peak_memory = self.peak_memory.max(total);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_sub(current).saturating_add(desired);
        if total > self.elements_limit {
            self.refused = Some(Refused::Elements);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Its own maximum, not a limit of ours.
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(memory: usize) -> Usage {
        Usage::new(&Limits {
            memory,
            table_elements: 10,
            ..Limits::default()
        })
    }

    #[test]
    fn all_memories_count_together() {
        let mut usage = usage(100);
        assert!(usage.memory_growing(0, 60, None).unwrap());
        assert!(usage.memory_growing(0, 40, None).unwrap());
        assert_eq!(usage.refused(), None);
        assert!(!usage.memory_growing(60, 61, None).unwrap());
        assert_eq!(usage.refused(), Some(Refused::Memory));
        assert_eq!(usage.peak_memory(), 100);
    }

    #[test]
    fn what_was_refused_is_not_counted() {
        let mut usage = usage(100);
        assert!(usage.memory_growing(0, 60, None).unwrap());
        assert!(!usage.memory_growing(60, 200, None).unwrap());
        assert!(!usage.memory_growing(60, 90, Some(80)).unwrap());
        assert!(usage.memory_growing(60, 100, None).unwrap());
        assert!(!usage.memory_growing(100, usize::MAX, None).unwrap());
    }

    #[test]
    fn all_tables_count_together() {
        let mut usage = usage(100);
        assert!(usage.table_growing(0, 6, None).unwrap());
        assert!(!usage.table_growing(0, 5, None).unwrap());
        assert_eq!(usage.refused(), Some(Refused::Elements));
        assert!(usage.table_growing(0, 4, None).unwrap());
    }
}
