//! How many Python objects were made, and how many of them were not destroyed.

use hashbrown::HashSet;

use crate::model::{Action, Event};

#[derive(Default)]
pub struct Objects {
    pub n_made: u64,
    /// Of those, the ones that are there at the end.
    pub n_living: u64,
    living: HashSet<u64>,
}

impl Objects {
    #[inline]
    pub fn take(&mut self, event: &Event) {
        match event.action {
            Action::ObjectMade { address, .. } => {
                self.n_made += 1;
                self.n_living += u64::from(self.living.insert(address));
            }
            Action::ObjectDestroyed { address } => self.n_living -= u64::from(self.living.remove(&address)),
            Action::ImageStart => {
                self.n_living -= self.living.len() as u64;
                self.living.clear();
            }
            _ => {}
        }
    }

    /// Adds those of another capture.
    pub fn absorb(&mut self, other: &Objects) {
        self.n_made += other.n_made;
        self.n_living += other.n_living;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StackId;

    fn objects(actions: &[Action]) -> (u64, u64) {
        let mut objects = Objects::default();
        for &action in actions {
            objects.take(&Event { turn: 1, image: 0, lane: 0, thread: 1, action });
        }
        (objects.n_made, objects.n_living)
    }

    fn made(address: u64) -> Action {
        Action::ObjectMade { address, stack: StackId::EMPTY }
    }

    #[test]
    fn an_object_that_was_not_destroyed_lives_until_its_program_is_another_one() {
        let gone = |address| Action::ObjectDestroyed { address };
        assert_eq!(objects(&[made(16), made(32), gone(16), gone(48), made(16)]), (3, 2));
        assert_eq!(objects(&[made(16), made(32), Action::ImageStart, made(16)]), (3, 1));
    }
}
