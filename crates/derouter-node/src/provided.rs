//! The offers that modules of this node provide now, and who serves them. Pure bookkeeping.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use derouter_sdk::{OfferId, OfferSpec, ProtocolId, ProviderService, Wei};

/// Offers that one node may provide. More can't be announced; this only bounds memory.
pub(crate) const MAX_PROVIDED: usize = 10_000;

/// Protocol and offer id: unique on a node.
pub(crate) type OfferName = (ProtocolId, OfferId);

/// One `provide` call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProvisionId(u64);

#[derive(Clone)]
pub(crate) struct ProvidedOffer {
    pub(crate) payload: String,
    pub(crate) service: Arc<dyn ProviderService>,
    pub(crate) max_unsigned: Option<Wei>,
    provision: ProvisionId,
    order: u64,
}

/// Why offers are not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AddError {
    Duplicate(OfferName),
    TooMany,
}

/// The registry.
#[derive(Default)]
pub(crate) struct ProvidedOffers {
    offers: HashMap<OfferName, ProvidedOffer>,
    /// Services whose offers were taken back, for as long as they live: they finish the jobs that
    /// they accepted.
    retired: HashMap<OfferName, Weak<dyn ProviderService>>,
    next_order: u64,
    next_provision: u64,
}

impl ProvidedOffers {
    /// Adds all offers or none.
    pub(crate) fn add(
        &mut self,
        specs: Vec<OfferSpec>,
        max_unsigned: Option<Wei>,
        service: &Arc<dyn ProviderService>,
    ) -> Result<ProvisionId, AddError> {
        if self.offers.len() + specs.len() > MAX_PROVIDED {
            return Err(AddError::TooMany);
        }
        let mut fresh = BTreeMap::new();
        for (position, spec) in specs.into_iter().enumerate() {
            let name = (spec.protocol_id, spec.offer_id);
            if self.offers.contains_key(&name) || fresh.contains_key(&name) {
                return Err(AddError::Duplicate(name));
            }
            fresh.insert(name, (position, spec.protocol_payload));
        }
        let provision = ProvisionId(self.next_provision);
        self.next_provision += 1;
        let count = fresh.len();
        for (name, (position, payload)) in fresh {
            let order = self.next_order + u64::try_from(position).unwrap_or(u64::MAX);
            let service = service.clone();
            let offer = ProvidedOffer {
                payload,
                service,
                max_unsigned,
                provision,
                order,
            };
            self.offers.insert(name, offer);
        }
        self.next_order += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(provision)
    }

    /// Takes a provision's offers back.
    pub(crate) fn remove(&mut self, provision: ProvisionId) {
        self.retired.retain(|_, service| service.strong_count() > 0);
        let gone = self
            .offers
            .extract_if(|_, offer| offer.provision == provision);
        for (name, offer) in gone {
            if self.retired.len() < MAX_PROVIDED {
                self.retired.insert(name, Arc::downgrade(&offer.service));
            }
        }
    }

    /// Who serves the jobs of an offer, also after it was taken back.
    pub(crate) fn service(&self, name: &OfferName) -> Option<Arc<dyn ProviderService>> {
        match self.offers.get(name) {
            Some(offer) => Some(Arc::clone(&offer.service)),
            None => self.retired.get(name)?.upgrade(),
        }
    }

    pub(crate) fn get(&self, name: &OfferName) -> Option<&ProvidedOffer> {
        self.offers.get(name)
    }

    /// Names and payloads in the order in which they were provided.
    pub(crate) fn in_order(&self) -> Vec<(OfferName, String)> {
        let mut offers: Vec<_> = self.offers.iter().collect();
        offers.sort_by_key(|(_, offer)| offer.order);
        offers
            .into_iter()
            .map(|(name, offer)| (name.clone(), offer.payload.clone()))
            .collect()
    }
}
