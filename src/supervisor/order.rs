//! Who starts before whom, worked out once for a plan. A cycle is refused when the plan is made.

use std::collections::HashMap;

use super::process::Process;

/// By index into the table.
#[derive(Default)]
pub struct Order {
    needs: Vec<Vec<usize>>,
    needed_by: Vec<Vec<usize>>,
    by_priority: Vec<usize>,
}

impl Order {
    pub fn of(table: &[Process]) -> Order {
        let by_name: HashMap<_, usize> = table.iter().enumerate().map(|(at, p)| (&p.spec().name, at)).collect();
        let mut order = Order {
            needs: vec![Vec::new(); table.len()],
            needed_by: vec![Vec::new(); table.len()],
            by_priority: (0..table.len()).collect(),
        };
        for (at, process) in table.iter().enumerate() {
            // One that is not there (any more) holds nobody up.
            for &needed in process.spec().after.iter().filter_map(|name| by_name.get(name)) {
                order.needs[at].push(needed);
                order.needed_by[needed].push(at);
            }
        }
        order.by_priority.sort_by_key(|&at| table[at].spec().priority);
        order
    }

    /// Those it starts after.
    pub fn needs(&self, at: usize) -> &[usize] {
        self.needs.get(at).map_or(&[], Vec::as_slice)
    }

    /// Those that start after it.
    pub fn needed_by(&self, at: usize) -> &[usize] {
        self.needed_by.get(at).map_or(&[], Vec::as_slice)
    }

    pub fn by_priority(&self) -> &[usize] {
        &self.by_priority
    }
}
