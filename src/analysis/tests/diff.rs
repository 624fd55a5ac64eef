//! Differences of generated logs.

use proptest::prelude::*;

use super::*;

fn snapshots(model: &Model, events: &[Event]) -> [Snapshot; 3] {
    let mut heap = Heap::new(MmapRule::Memory, Detail::Stack);
    events.iter().for_each(|event| heap.take(model, event));
    [heap.at_peak(), heap.at_end(), heap.ever()]
}

proptest! {
    #[test]
    fn a_capture_and_itself_do_not_differ(events in events(), by_line: bool, is_normalised: bool) {
        let model = model();
        for snapshot in snapshots(&model, &events) {
            let options = DiffOptions { by_line, is_normalised };
            let diff = Diff::new((&model, &snapshot), (&model, &snapshot), &options);
            prop_assert!(diff.total().is_nothing());
            prop_assert!(diff.stacks().iter().all(|(_, change)| change.is_nothing()));
            prop_assert!(diff.functions().iter().all(|it| it.own.is_nothing() && it.total.is_nothing()));
        }
    }

    #[test]
    fn changes_add_up_and_turn_round(before in events(), after in events(), by_line: bool) {
        let model = model();
        let options = DiffOptions { by_line, is_normalised: false };
        for (base, new) in snapshots(&model, &before).into_iter().zip(snapshots(&model, &after)) {
            let there = Diff::new((&model, &base), (&model, &new), &options);
            let back = Diff::new((&model, &new), (&model, &base), &options);
            let more = new.bytes as i64 - base.bytes as i64;
            prop_assert_eq!((there.total().bytes(), back.total().bytes()), (more, -more));
            prop_assert_eq!(there.stacks().iter().map(|(_, change)| change.bytes()).sum::<i64>(), more);
            prop_assert_eq!(back.stacks().iter().map(|(_, change)| change.bytes()).sum::<i64>(), -more);
            prop_assert_eq!(there.functions().iter().map(|it| it.own.bytes()).sum::<i64>(), more);
            let n_more = new.count as i64 - base.count as i64;
            prop_assert_eq!(there.functions().iter().map(|it| it.own.count()).sum::<i64>(), n_more);
        }
    }
}
