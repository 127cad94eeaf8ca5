//! The keys that programs need for the endpoint.

use axum::Form;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use derouter_sdk::Wei;
use maud::{Markup, html};
use serde::Deserialize;

use super::{back, page_of};
use crate::modules::{Gateway, Key, KeyWish};
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, page, pol};
use crate::{text, ui};

/// Models that one key may name.
const MOST_MODELS: usize = 100;

/// The keys, and the form that makes one. `made` is a key to show, once.
pub(super) fn section(session: &Session, gateway: &dyn Gateway, made: Option<&str>) -> Markup {
    html! {
        section #keys.card {
            h2 { "Keys" }
            @if let Some(made) = made {
                p.notice role="status" { "This is the new key. It is shown once: copy it now." }
                (ui::copyable("the new key", made))
            }
            @match gateway.keys() {
                Err(why) => p { (text::plain(&why, text::LONG)) },
                Ok(keys) => {
                    @match keys.as_deref() {
                        None => p { "There is no key: every program of this machine may spend. Once there is one, nobody is served without." },
                        Some([]) => p { "All keys are revoked: no program is served until there is a new one. This dashboard and the commands of the node's user need none." },
                        Some(keys) => (list(session, keys)),
                    }
                    details #new-key { summary { "Make a key" } (form(session)) }
                }
            }
        }
    }
}

fn list(session: &Session, keys: &[Key]) -> Markup {
    let most = |most: Option<Wei>| html! { @match most { Some(most) => (pol(most)), None => span.dim { "–" } } };
    let rows: Vec<Markup> = keys.iter().map(|key| html! {
        td { (text::plain(&key.name, text::SHORT)) }
        td.wide { @match &key.models { Some(models) => (text::plain(&models.join(", "), 200)), None => span.dim { "all" } } }
        td.num { (most(key.per_request)) }
        td.num { (most(key.daily)) }
        td.num { (most(key.total)) }
        td.num { (pol(key.spent)) }
        td.nowrap { @match key.expires { Some(at) => (text::utc(at)), None => span.dim { "never" } } }
        td {
            form method="post" action="/keys/revoke" data-confirm="Revoke this key? Programs that use it are refused at once." {
                (ui::csrf(session))
                input type="hidden" name="name" value=(key.name);
                button.bad type="submit" aria-label=(format!("Revoke {}", text::plain(&key.name, 40))) { "Revoke" }
            }
        }
    }).collect();
    ui::table(
        "Keys",
        &[
            "Name",
            "Models",
            "#A request",
            "#A day",
            "#In all",
            "#Spent",
            "Ends",
            "",
        ],
        &rows,
    )
}

fn form(session: &Session) -> Markup {
    let amount = |name: &str, title: &str| {
        html! {
            label { (title) input name=(name) inputmode="decimal" pattern="[0-9]+([.][0-9]+)?" placeholder="no limit" size="10"; }
        }
    };
    html! {
        form.row method="post" action="/keys" {
            (ui::csrf(session))
            label { "Name" input name="name" required maxlength="64"; }
            label { "Models (comma between, * for any part)" input name="models" placeholder="all" maxlength="1000"; }
            (amount("per_request", "POL a request"))
            (amount("daily", "POL a day"))
            (amount("total", "POL in all"))
            button type="submit" { "Make the key" }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyForm {
    name: String,
    models: String,
    per_request: String,
    daily: String,
    total: String,
}

impl KeyForm {
    fn read(&self) -> Result<KeyWish, String> {
        let amount = |text: &str| match text.trim() {
            "" => Ok(None),
            text => Wei::from_pol_text(text)
                .map(Some)
                .map_err(|error| error.to_string()),
        };
        let models: Vec<String> = self
            .models
            .split(',')
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect();
        if models.len() > MOST_MODELS {
            return Err(format!("A key may name {MOST_MODELS} models."));
        }
        Ok(KeyWish {
            name: self.name.trim().to_owned(),
            models: (!models.is_empty()).then_some(models),
            per_request: amount(&self.per_request)?,
            daily: amount(&self.daily)?,
            total: amount(&self.total)?,
        })
    }
}

/// `POST /keys`. The answer shows the key, so it is a page and no redirect.
pub(super) async fn create(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Form(form): Form<KeyForm>,
) -> Response {
    let Some(gateway) = &app.modules.gateway else {
        return back("/money", "There is no gateway in this process.");
    };
    let made = form.read().and_then(|wish| gateway.create_key(&wish));
    match made {
        Err(why) => back("/money", &why),
        Ok(key) => {
            let content = html! {
                (section(&session, gateway.as_ref(), Some(&key)))
                p { a.button.quiet href="/money" { "Done" } }
            };
            page_of(&page(&app, &session, Page::Money, None, &content)).into_response()
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    name: String,
}

/// `POST /keys/revoke`.
pub(super) async fn revoke(State(app): State<App>, Form(form): Form<Named>) -> Response {
    let Some(gateway) = &app.modules.gateway else {
        return back("/money", "There is no gateway in this process.");
    };
    match gateway.revoke_key(&form.name) {
        Ok(()) => back("/money", "The key is revoked."),
        Err(why) => back("/money", &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_strictly() {
        let form = KeyForm {
            name: " ci ".into(),
            models: "a*, b,".into(),
            daily: "0.5".into(),
            ..KeyForm::default()
        };
        let wish = form.read().unwrap();
        assert_eq!(wish.name, "ci");
        assert_eq!(wish.models, Some(vec!["a*".to_owned(), "b".to_owned()]));
        assert_eq!(wish.daily, Some(Wei::from_pol_text("0.5").unwrap()));
        assert_eq!(wish.total, None);
        for daily in ["-1", "1e3", "much"] {
            let form = KeyForm {
                daily: daily.into(),
                ..KeyForm::default()
            };
            assert!(form.read().is_err(), "{daily}");
        }
    }
}
