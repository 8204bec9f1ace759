//! Who starts before whom. Names become places in the table once, so that asking costs nothing.
//!
//! Priority only orders the sequence of starts and stops; `after` waits. A plan has no cycle and no unknown name, for
//! who makes it refuses them; should one get here all the same, the edge is left out, since the alternative is to
//! wait for ever.

use std::collections::HashMap;

use super::event::ProcessId;
use crate::plan::{Name, Spec};

/// The order of one table; places are indices into it.
#[derive(Debug, Default)]
pub struct Order {
    /// For each place: the places it starts after.
    after: Vec<Vec<usize>>,
    /// For each place: the places that start after it.
    dependents: Vec<Vec<usize>>,
    /// For each place: where it stands by (priority, place).
    ranks: Vec<usize>,
    places: HashMap<ProcessId, usize>,
}

impl Order {
    pub fn of<'a>(rows: impl Iterator<Item = (ProcessId, &'a Spec)>) -> Order {
        let rows: Vec<(ProcessId, &Spec)> = rows.collect();
        let by_name: HashMap<&Name, usize> =
            rows.iter().enumerate().map(|(place, (_, spec))| (&spec.name, place)).collect();
        let mut after: Vec<Vec<usize>> = rows
            .iter()
            .map(|(_, spec)| spec.after.iter().filter_map(|name| by_name.get(name).copied()).collect())
            .collect();
        drop_cycles(&mut after);
        let mut dependents = vec![Vec::new(); rows.len()];
        for (place, befores) in after.iter().enumerate() {
            for before in befores {
                dependents[*before].push(place);
            }
        }
        let mut ranked: Vec<usize> = (0..rows.len()).collect();
        ranked.sort_by_key(|place| (rows[*place].1.priority, *place));
        let mut ranks = vec![0; rows.len()];
        for (rank, place) in ranked.into_iter().enumerate() {
            ranks[place] = rank;
        }
        let places = rows.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect();
        Order { after, dependents, ranks, places }
    }

    pub fn place(&self, id: ProcessId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    pub fn after(&self, place: usize) -> &[usize] {
        &self.after[place]
    }

    pub fn dependents(&self, place: usize) -> &[usize] {
        &self.dependents[place]
    }

    /// The lowest starts first; stops go backwards.
    pub fn rank(&self, place: usize) -> usize {
        self.ranks[place]
    }
}

/// Leaves out each edge that closes a cycle: a walk in depth, with its own stack since plans may be deep.
fn drop_cycles(after: &mut [Vec<usize>]) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnTheWay,
        Done,
    }
    let mut marks = vec![Mark::New; after.len()];
    for start in 0..after.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::OnTheWay;
        let mut way = vec![(start, 0)];
        while let Some((place, next)) = way.last_mut() {
            match after[*place].get(*next).copied() {
                None => {
                    marks[*place] = Mark::Done;
                    way.pop();
                }
                Some(before) => match marks[before] {
                    Mark::New => {
                        *next += 1;
                        marks[before] = Mark::OnTheWay;
                        way.push((before, 0));
                    }
                    Mark::OnTheWay => {
                        after[*place].remove(*next);
                    }
                    Mark::Done => *next += 1,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::drop_cycles;

    #[test]
    fn an_edge_that_closes_a_cycle_is_left_out_and_all_others_stay() {
        let mut ring = vec![vec![1], vec![2], vec![0]];
        drop_cycles(&mut ring);
        assert_eq!(ring.iter().map(Vec::len).sum::<usize>(), 2);
        let mut alone = vec![vec![0]];
        drop_cycles(&mut alone);
        assert_eq!(alone, [Vec::<usize>::new()]);
        let diamond = vec![vec![], vec![0], vec![0], vec![1, 2]];
        let mut kept = diamond.clone();
        drop_cycles(&mut kept);
        assert_eq!(kept, diamond);
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_does_not_overflow_the_stack() {
        let mut chain: Vec<Vec<usize>> =
            (0..100_000).map(|n| if n == 99_999 { vec![0] } else { vec![n + 1] }).collect();
        drop_cycles(&mut chain);
        assert_eq!(chain.iter().filter(|edges| edges.is_empty()).count(), 1);
    }
}
