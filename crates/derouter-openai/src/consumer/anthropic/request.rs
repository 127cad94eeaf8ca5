//! Requests of the Messages API as chat completions.

use std::fmt;

use serde_json::{Map, Value, json};

use super::content;

/// Fields without a counterpart that can be left out: they say how Anthropic itself should run the
/// request, and the answer is as good without.
const DROPPED: [&str; 12] = [
    "anthropic_version",
    "anthropic_beta",
    "betas",
    "cache_control",
    "context_management",
    "diagnostics",
    "fallbacks",
    "inference_geo",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
];

/// Fields that can't be left out, since the client counts on what they do.
const UNSUPPORTED: [&str; 2] = ["container", "mcp_servers"];

/// Fields of OpenAI requests that would contradict the translation, or make an answer that can't
/// be translated back.
const FOREIGN: [&str; 12] = [
    "audio",
    "best_of",
    "function_call",
    "functions",
    "max_completion_tokens",
    "modalities",
    "n",
    "prompt",
    "stop",
    "stream_options",
    "suffix",
    "tool_calls",
];

/// Up to which budgets of thinking tokens an effort counts as low and as medium.
const LOW_BUDGET: u64 = 4_096;
const MEDIUM_BUDGET: u64 = 16_384;

/// The longest text of a client that a refusal repeats, in characters.
const MAX_REPEATED: usize = 60;

/// What is wrong with a request, with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

pub(super) fn refuse<T>(at: &str, what: impl fmt::Display) -> Result<T, Refusal> {
    Err(Refusal(format!("{at}: {what}")))
}

/// The beginning of a client's text.
pub(super) fn short(text: &str) -> String {
    text.chars().take(MAX_REPEATED).collect()
}

/// A text that must be there.
pub(super) fn text_field<'a>(at: &str, object: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    match object.get(name).and_then(Value::as_str) {
        Some(text) => Ok(text),
        None => refuse(&format!("{at}.{name}"), "a text is required"),
    }
}

/// A value that must be an object.
pub(super) fn object<'a>(at: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Refusal> {
    match value.as_object() {
        Some(object) => Ok(object),
        None => refuse(at, "must be an object"),
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An answer, whose length must be limited.
    Answer,
    /// The count of its tokens.
    Count,
}

/// A request in OpenAI's form, and what its answer's translation needs.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) fields: Map<String, Value>,
    pub(crate) model: String,
    pub(crate) stop_sequences: Vec<String>,
    pub(crate) show_thinking: bool,
    pub(crate) stream: bool,
}

/// Translates a request.
pub(crate) fn translate(
    mut request: Map<String, Value>,
    purpose: Purpose,
) -> Result<Translated, Refusal> {
    // Null is as good as absent.
    request.retain(|_, value| !value.is_null());
    check_names(&request)?;
    let mut take = |name: &str| request.shift_remove(name);
    let model = match take("model") {
        Some(Value::String(model)) if !model.is_empty() => model,
        _ => return refuse("model", "the name of a model is required"),
    };
    let mut fields = Map::new();
    fields.insert("model".into(), model.clone().into());
    let system = take("system");
    let messages = take("messages").unwrap_or(Value::Null);
    let messages = content::messages(system.as_ref(), &messages)?;
    fields.insert("messages".into(), messages.into());
    if let Some(most) = max_tokens(take("max_tokens").as_ref(), purpose)? {
        fields.insert("max_tokens".into(), most.into());
    }
    let stream = flag("stream", take("stream").as_ref())?;
    if stream {
        fields.insert("stream".into(), true.into());
        fields.insert("stream_options".into(), json!({"include_usage": true}));
    }
    let stop_sequences = stop_sequences(take("stop_sequences").as_ref())?;
    if !stop_sequences.is_empty() {
        fields.insert("stop".into(), stop_sequences.clone().into());
    }
    let (tools, choice) = (take("tools"), take("tool_choice"));
    add_tools(tools.as_ref(), choice.as_ref(), &mut fields)?;
    if let Some(user) = take("metadata")
        .as_ref()
        .and_then(|m| m.get("user_id")?.as_str())
    {
        fields.insert("user".into(), user.into());
    }
    let output = Output::read(
        take("output_config").as_ref(),
        take("output_format").as_ref(),
    )?;
    let thinking = Thinking::read(take("thinking").as_ref(), output.effort)?;
    if let Some(effort) = thinking.effort {
        fields.insert("reasoning_effort".into(), effort.into());
    }
    if let Some(format) = output.response_format {
        fields.insert("response_format".into(), format);
    }
    pass_through(request, &mut fields)?;
    Ok(Translated {
        fields,
        model,
        stop_sequences,
        show_thinking: thinking.shown,
        stream,
    })
}

fn check_names(request: &Map<String, Value>) -> Result<(), Refusal> {
    if let Some(name) = FOREIGN.iter().find(|name| request.contains_key(**name)) {
        return refuse(name, "Extra inputs are not permitted");
    }
    let is_asked = |name: &&&str| request.get(**name).is_some_and(|value| *value != json!([]));
    match UNSUPPORTED.iter().find(is_asked) {
        Some(name) => refuse(name, "is not supported here"),
        None => Ok(()),
    }
}

/// What is left has the same name and meaning in both worlds, or is the provider's business.
fn pass_through(rest: Map<String, Value>, fields: &mut Map<String, Value>) -> Result<(), Refusal> {
    for (name, value) in rest {
        match name.as_str() {
            "temperature" | "top_p" | "top_k" if !value.is_number() => {
                return refuse(&name, "must be a number");
            }
            dropped if DROPPED.contains(&dropped) => {}
            _ => {
                fields.insert(name, value);
            }
        }
    }
    Ok(())
}

fn max_tokens(value: Option<&Value>, purpose: Purpose) -> Result<Option<u64>, Refusal> {
    match value.map(Value::as_u64) {
        Some(Some(most)) if most > 0 => Ok(Some(most)),
        None if purpose == Purpose::Count => Ok(None),
        None => refuse("max_tokens", "Field required"),
        Some(_) => refuse("max_tokens", "must be a whole number above 0"),
    }
}

fn flag(name: &str, value: Option<&Value>) -> Result<bool, Refusal> {
    match value.map(Value::as_bool) {
        None => Ok(false),
        Some(Some(flag)) => Ok(flag),
        Some(None) => refuse(name, "must be true or false"),
    }
}

fn stop_sequences(value: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let texts = value.as_array().and_then(|list| {
        let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
        texts.collect::<Option<Vec<_>>>()
    });
    match texts {
        Some(texts) => Ok(texts),
        None => refuse("stop_sequences", "must be an array of texts"),
    }
}

fn add_tools(
    tools: Option<&Value>,
    choice: Option<&Value>,
    fields: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    let no_tools = Value::Array(Vec::new());
    let Some(tools) = tools.unwrap_or(&no_tools).as_array() else {
        return refuse("tools", "must be an array");
    };
    let translated: Result<Vec<_>, _> = tools.iter().enumerate().map(tool).collect();
    let translated = translated?;
    let any_tools = !translated.is_empty();
    if any_tools {
        fields.insert("tools".into(), translated.into());
    }
    let Some(choice) = choice else {
        return Ok(());
    };
    let kind = choice.get("type").and_then(Value::as_str);
    let translated = match kind {
        Some("auto") => json!("auto"),
        Some("none") => json!("none"),
        Some("any") => json!("required"),
        Some("tool") => {
            let name = text_field("tool_choice", choice, "name")?;
            json!({"type": "function", "function": {"name": name}})
        }
        _ => return refuse("tool_choice", "type must be auto, any, tool or none"),
    };
    if !any_tools {
        // OpenAI's servers refuse a choice between no tools.
        return match kind {
            Some("auto" | "none") => Ok(()),
            _ => refuse("tool_choice", "there are no tools to choose from"),
        };
    }
    fields.insert("tool_choice".into(), translated);
    let one_by_one = choice.get("disable_parallel_tool_use");
    if flag("tool_choice.disable_parallel_tool_use", one_by_one)? {
        fields.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}

fn tool((index, tool): (usize, &Value)) -> Result<Value, Refusal> {
    let at = format!("tools.{index}");
    let kind = tool.get("type").and_then(Value::as_str);
    let schema = tool.get("input_schema");
    if let (Some(kind), None) = (kind.filter(|kind| *kind != "custom"), schema) {
        let kind = short(kind);
        let message = format!(
            "tools of type {kind} are Anthropic's own; here a tool needs a name and an input_schema"
        );
        return refuse(&at, message);
    }
    let mut function = Map::new();
    function.insert("name".into(), text_field(&at, tool, "name")?.into());
    if let Some(description) = tool.get("description").and_then(Value::as_str) {
        function.insert("description".into(), description.into());
    }
    let schema = object(
        &format!("{at}.input_schema"),
        schema.unwrap_or(&Value::Null),
    )?;
    function.insert("parameters".into(), schema.clone().into());
    if let Some(strict) = tool.get("strict").and_then(Value::as_bool) {
        function.insert("strict".into(), strict.into());
    }
    Ok(json!({"type": "function", "function": function}))
}

/// What the client wants of the answer's form.
#[derive(Default)]
struct Output {
    effort: Option<&'static str>,
    response_format: Option<Value>,
}

impl Output {
    /// `format` had a field of its own at first.
    fn read(config: Option<&Value>, format: Option<&Value>) -> Result<Self, Refusal> {
        let config = config.unwrap_or(&Value::Null);
        let effort = match config.get("effort").and_then(Value::as_str) {
            None => None,
            Some("low") => Some("low"),
            Some("medium") => Some("medium"),
            // The most that all servers know.
            Some("high" | "xhigh" | "max") => Some("high"),
            Some(_) => return refuse("output_config.effort", "is not a known effort"),
        };
        let format = config.get("format").or(format);
        let response_format = match format.filter(|format| !format.is_null()) {
            None => None,
            Some(format) => Some(response_format(format)?),
        };
        Ok(Self {
            effort,
            response_format,
        })
    }
}

fn response_format(format: &Value) -> Result<Value, Refusal> {
    let at = "output_config.format";
    if format.get("type").and_then(Value::as_str) != Some("json_schema") {
        return refuse(at, "type must be json_schema");
    }
    let schema = format.get("schema").unwrap_or(&Value::Null);
    let schema = object(&format!("{at}.schema"), schema)?;
    let named = json!({"name": "answer", "schema": schema, "strict": true});
    Ok(json!({"type": "json_schema", "json_schema": named}))
}

/// Whether the client wants the model to think, and to see it.
struct Thinking {
    shown: bool,
    effort: Option<&'static str>,
}

impl Thinking {
    fn read(thinking: Option<&Value>, effort: Option<&'static str>) -> Result<Self, Refusal> {
        let hidden = Self {
            shown: false,
            effort: None,
        };
        let Some(thinking) = thinking else {
            // A server may refuse an effort when its model can't think, so it must be asked for.
            return Ok(hidden);
        };
        let budget = || match thinking.get("budget_tokens").and_then(Value::as_u64) {
            Some(0..=LOW_BUDGET) => Ok("low"),
            Some(0..=MEDIUM_BUDGET) => Ok("medium"),
            Some(_) => Ok("high"),
            None => refuse("thinking.budget_tokens", "a whole number is required"),
        };
        let effort = match thinking.get("type").and_then(Value::as_str) {
            Some("enabled") => {
                let budget = budget()?;
                Some(effort.unwrap_or(budget))
            }
            Some("adaptive" | "between_tools") => effort,
            Some("disabled") => return Ok(hidden),
            _ => return refuse("thinking", "type must be enabled, adaptive or disabled"),
        };
        let display = thinking.get("display").and_then(Value::as_str);
        Ok(Self {
            shown: display != Some("omitted"),
            effort,
        })
    }
}

#[cfg(test)]
mod tests;
