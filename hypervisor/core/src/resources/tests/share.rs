//! Sharing by weight against its closed form.

use crate::memory::PAGE_SIZE;
use crate::resources::share::{Share, share_out};
use alloc::vec::Vec;
use proptest::prelude::*;

fn any_share() -> impl Strategy<Value = Share> {
    (0..2000_u64, 0..2000_u64, 0..2000_u64, 1..10_000_u32).prop_map(|(base, floor, room, weight)| Share {
        vm: 0,
        base: base * PAGE_SIZE,
        floor: floor * PAGE_SIZE,
        ceiling: (base.max(floor) + room) * PAGE_SIZE,
        weight,
        given: 0,
    })
}

proptest! {
    #[test]
    fn shares_are_the_closed_form_to_the_frame(
        mut shares in proptest::collection::vec(any_share(), 1..12),
        extra in 0..20_000_u64,
    ) {
        let floors: u64 = shares.iter().map(|share| share.floor.max(share.base)).sum();
        let pool = floors + extra * PAGE_SIZE;
        share_out(pool, &mut shares);
        let given: u64 = shares.iter().map(|share| share.given).sum();
        let ceilings: u64 = shares.iter().map(|share| share.ceiling).sum();
        // Nothing is left as long as anybody can use it.
        prop_assert_eq!(given, pool.min(ceilings));
        for share in &shares {
            prop_assert!(share.floor <= share.given && share.given <= share.ceiling);
        }
        // All those at neither end have the same level, within the frame that cannot be cut and the one left over.
        let frames = |share: &Share| (share.given - share.base) / PAGE_SIZE;
        let low = |share: &Share| (frames(share).saturating_sub(1)) as f64 / f64::from(share.weight);
        let high = |share: &Share| (frames(share) + 1) as f64 / f64::from(share.weight);
        let between: Vec<&Share> =
            shares.iter().filter(|share| share.floor.max(share.base) < share.given && share.given < share.ceiling).collect();
        for one in &between {
            for other in &between {
                prop_assert!(low(one) <= high(other) + 1e-6, "{:?} {:?}", one, other);
            }
        }
    }
}
