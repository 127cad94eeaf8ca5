//! What the gateway learned of providers, kept in a file of the data directory, so that a restart neither makes
//! everybody a newcomer nor ends a cooldown. Losing it costs a few answers, so a damaged file stops nothing.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::gateway::Gateway;
use super::ledger::unix_now;
use super::price_history::{KeptPrices, PriceHistory};
use super::quality::{Kept, Quality};
use crate::files::{read_within, replace};

/// The file in the data directory.
pub const MEASURED_FILE: &str = "openai-measured.json";

/// Where a file that can't be read is put.
const DAMAGED_FILE: &str = "openai-measured.json.damaged";

/// Bytes of the file: the most that [`Quality`] remembers comes to less. Prices have what is left.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// How often prices are noted.
const NOTE: Duration = Duration::from_secs(10);

/// After so many of these it is written, while there is news of answers.
const OFTEN: u32 = 6;

/// And after so many in any case: providers come and go.
const ANYWAY: u32 = 60;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// When it was written, in Unix seconds.
    at: u64,
    quality: Kept,
    prices: Vec<KeptPrices>,
}

/// What is known from earlier runs: how providers did, and the prices of their offers. Blocks for the disk.
pub(super) fn recall(data_dir: Option<&Path>) -> (Quality, PriceHistory) {
    let Some(data_dir) = data_dir else {
        return Default::default();
    };
    match read(&data_dir.join(MEASURED_FILE)) {
        Ok(Some(measured)) => {
            // A clock that was set back: nothing has aged.
            let down = Duration::from_secs(unix_now().0.saturating_sub(measured.at));
            let quality = Quality::recall(&measured.quality, down, Instant::now());
            (quality, PriceHistory::recall(measured.prices))
        }
        Ok(None) => Default::default(),
        Err(error) => {
            set_aside(data_dir, &error);
            Default::default()
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Measured>> {
    let Some(bytes) = read_within(path, FILE_BYTES)? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn set_aside(data_dir: &Path, error: &io::Error) {
    let moved = fs::rename(data_dir.join(MEASURED_FILE), data_dir.join(DAMAGED_FILE));
    tracing::warn!(
        %error, file = MEASURED_FILE, kept_as = moved.is_ok().then_some(DAMAGED_FILE),
        "what was measured of providers can't be read: all are newcomers"
    );
}

/// Notes prices, and writes the file now and then, for as long as the gateway runs.
pub(super) async fn follow(gateway: Arc<Gateway>) {
    let mut written = gateway.quality().lessons();
    for round in 1_u32.. {
        tokio::time::sleep(NOTE).await;
        gateway.note_prices();
        let lessons = gateway.quality().lessons();
        let has_news = round.is_multiple_of(OFTEN) && lessons != written;
        if has_news || round.is_multiple_of(ANYWAY) {
            save(&gateway).await;
            written = lessons;
        }
    }
}

/// The file's bytes, within a limit: the longest histories of prices are left out where they do not fit.
fn written(mut measured: Measured, most: u64) -> io::Result<Vec<u8>> {
    measured.prices.sort_by_key(KeptPrices::changes);
    loop {
        let bytes = serde_json::to_vec(&measured)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= most) {
            return Ok(bytes);
        }
        if measured.prices.is_empty() {
            return Err(io::Error::other("it is too large"));
        }
        measured.prices.truncate(measured.prices.len() / 2);
    }
}

/// Writes it.
pub(super) async fn save(gateway: &Gateway) {
    let Some(data_dir) = gateway.config.data_dir.clone() else {
        return;
    };
    gateway.note_prices();
    let quality = gateway.quality().keep(Instant::now());
    let at = unix_now();
    let prices = gateway.with_prices(|prices| prices.keep(at));
    if quality.is_empty() && prices.is_empty() {
        return;
    }
    let measured = Measured {
        at: at.0,
        quality,
        prices,
    };
    let writing = tokio::task::spawn_blocking(move || {
        let bytes = written(measured, FILE_BYTES)?;
        replace(&data_dir.join(MEASURED_FILE), &bytes)
    });
    match writing.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, file = MEASURED_FILE, "can't keep what was measured of providers");
        }
        Err(error) => tracing::error!(%error, "what was measured of providers is not kept"),
    }
}

#[cfg(test)]
mod tests {
    use derouter_sdk::PeerId;

    use super::super::quality::Blame;
    use super::*;

    #[test]
    fn a_damaged_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(MEASURED_FILE);
        let huge = format!("{{}}{}", " ".repeat(16 << 20));
        for text in ["", "{", "[]", r#"{"at": 1, "more": 2}"#, &huge] {
            fs::write(&path, text).unwrap();
            recall(Some(directory.path()));
            assert!(!path.exists());
            let aside = fs::read_to_string(directory.path().join(DAMAGED_FILE)).unwrap();
            assert_eq!(aside.len(), text.len());
        }
    }

    #[test]
    fn prices_that_do_not_fit_are_left_out_and_the_file_can_be_read() {
        let mut quality = Quality::default();
        quality.blame(&PeerId::random(), "m", Blame::Failed, Instant::now());
        let quality = quality.keep(Instant::now());
        let measured = |offers: u64| {
            let prices = (0..offers).map(|offer| KeptPrices::of_changes(offer, offer % 10 + 1));
            Measured {
                at: 1,
                quality: quality.clone(),
                prices: prices.collect(),
            }
        };
        let all = serde_json::to_vec(&measured(1000)).unwrap();
        let most = u64::try_from(all.len()).unwrap();
        assert_eq!(written(measured(1000), most).unwrap().len(), all.len());
        let fits = written(measured(1000), most - 1).unwrap();
        let fits: Measured = serde_json::from_slice(&fits).unwrap();
        assert_eq!(fits.prices.len(), 500);
        assert!(
            fits.prices.iter().all(|it| it.changes() <= 5),
            "the longest go"
        );
        assert_eq!(fits.quality, quality);
        let none = serde_json::to_vec(&measured(0)).unwrap();
        let least = u64::try_from(none.len()).unwrap();
        assert_eq!(written(measured(1000), least).unwrap(), none);
        assert!(written(measured(1000), least - 1).is_err());
    }

    #[test]
    fn the_time_between_two_runs_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (provider, now) = (PeerId::random(), Instant::now());
        let mut quality = Quality::default();
        quality.blame(&provider, "m", Blame::Failed, now);
        let kept = quality.keep(now);
        let cools = |written_at: u64| {
            let measured = Measured {
                at: written_at,
                quality: kept.clone(),
                prices: Vec::new(),
            };
            let bytes = serde_json::to_vec(&measured).unwrap();
            fs::write(directory.path().join(MEASURED_FILE), bytes).unwrap();
            let (quality, _) = recall(Some(directory.path()));
            quality.cools_for(&provider, Instant::now())
        };
        let today = unix_now().0;
        assert!(cools(today).is_some());
        assert!(cools(today + 1_000_000).is_some(), "the clock was set back");
        assert_eq!(cools(today - 60), None);
    }
}
