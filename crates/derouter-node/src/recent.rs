//! The latest jobs of this node, in memory: who consumes them and for which offer, which never changes.
//! A job is connected to right after its creation, and the database need not be asked again then.

use std::collections::{HashMap, VecDeque};

use derouter_market::Role;
use derouter_sdk::{JobKey, PeerId};
use derouter_wire::job::JobWire;

use crate::provided::OfferName;

/// Jobs kept: more than can be between creation and connection at once. The oldest go first. Under half of
/// what a table of this size holds (7168): one that is fuller is doubled for the places of what was removed,
/// some day.
const MAX_RECENT: usize = 3_500;

/// What never changes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecentJob {
    pub(crate) consumer: PeerId,
    pub(crate) offer: OfferName,
    pub(crate) wire: JobWire,
}

#[derive(Debug, Default)]
pub(crate) struct RecentJobs {
    jobs: HashMap<(Role, JobKey), RecentJob>,
    order: VecDeque<(Role, JobKey)>,
}

impl RecentJobs {
    pub(crate) fn add(&mut self, role: Role, key: JobKey, job: RecentJob) {
        let name = (role, key);
        if self.jobs.insert(name.clone(), job).is_some() {
            return;
        }
        self.order.push_back(name);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, role: Role, key: &JobKey) -> Option<RecentJob> {
        self.jobs.get(&(role, key.clone())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use derouter_sdk::{JobId, OfferId, ProtocolId};

    use super::*;

    #[test]
    fn the_table_does_not_grow_for_what_was_removed() {
        let mut recent = RecentJobs::default();
        let job = RecentJob {
            consumer: PeerId::random(),
            offer: (ProtocolId::new("p").unwrap(), OfferId::new("o").unwrap()),
            wire: JobWire::V0_2,
        };
        let provider = PeerId::random();
        for number in 0..100_000 {
            let job_id = JobId::new(format!("j{number}")).unwrap();
            let key = JobKey { provider, job_id };
            recent.add(Role::Provider, key, job.clone());
        }
        assert!(recent.jobs.capacity() <= 7168);
    }

    #[test]
    fn the_latest_jobs_are_known_and_the_oldest_forgotten() {
        let mut recent = RecentJobs::default();
        let peer = PeerId::random();
        let offer = (ProtocolId::new("p").unwrap(), OfferId::new("o").unwrap());
        let job = RecentJob {
            consumer: peer,
            offer,
            wire: JobWire::V0_2,
        };
        let key = |number: usize| JobKey {
            provider: peer,
            job_id: JobId::new(format!("j{number}")).unwrap(),
        };
        for number in 0..=MAX_RECENT {
            recent.add(Role::Provider, key(number), job.clone());
            recent.add(Role::Provider, key(number), job.clone());
        }
        assert_eq!(recent.get(Role::Provider, &key(0)), None);
        assert_eq!(recent.get(Role::Provider, &key(1)), Some(job));
        assert_eq!(
            recent.get(Role::Consumer, &key(1)),
            None,
            "the other side of it"
        );
        assert_eq!(
            (recent.jobs.len(), recent.order.len()),
            (MAX_RECENT, MAX_RECENT)
        );
    }
}
