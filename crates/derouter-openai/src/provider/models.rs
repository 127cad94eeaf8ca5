//! What a backend says of its models. Pure.

use std::collections::HashSet;

use serde_json::Value;

/// Models of one list that are looked at: OpenRouter has some 500.
const MAX_MODELS: usize = 4_096;

/// The longest name of a model that is taken.
const MAX_NAME_BYTES: usize = 256;

/// What Ollama gives a model that has no `num_ctx` of its own, and what its more recent versions give
/// at least. Its `context_length` is what the model could have, and longer prompts are cut without a word.
const OLLAMA_CONTEXT: u64 = 4_096;

/// A model that a backend names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelInfo {
    /// Its name there.
    pub(super) id: String,
    /// Its context window, where the list says.
    pub(super) context_size: Option<u64>,
    /// Whether the list is one of llama.cpp, which serves one model with a window of its own choice.
    pub(super) is_llama_cpp: bool,
}

/// Reads the answer to `/models`; `None` when it is no list.
pub(super) fn listed(answer: &Value) -> Option<Vec<ModelInfo>> {
    let data = answer.get("data")?.as_array()?;
    let models = data.iter().filter_map(model).take(MAX_MODELS);
    Some(models.collect())
}

fn model(entry: &Value) -> Option<ModelInfo> {
    let id = entry.get("id")?.as_str()?;
    if id.trim().is_empty() || id.len() > MAX_NAME_BYTES {
        return None;
    }
    let meta = entry.get("meta");
    // vLLM and SGLang; OpenRouter and Together; LM Studio, what is loaded first.
    let in_entry = [
        "max_model_len",
        "loaded_context_length",
        "context_length",
        "max_context_length",
        "context_window",
    ];
    let in_meta = ["n_ctx", "n_ctx_train"];
    let told = in_entry.iter().find_map(|key| size(entry, key));
    let of_meta = || in_meta.iter().find_map(|key| size(meta?, key));
    Some(ModelInfo {
        id: id.to_owned(),
        context_size: told.or_else(of_meta),
        is_llama_cpp: meta.is_some_and(|meta| meta.get("n_ctx_train").is_some()),
    })
}

fn size(object: &Value, key: &str) -> Option<u64> {
    object.get(key)?.as_u64().filter(|size| *size > 0)
}

/// Reads llama.cpp's `/props`: the window of each of its slots.
pub(super) fn context_in_props(props: &Value) -> Option<u64> {
    size(props.get("default_generation_settings")?, "n_ctx")
}

/// Reads Ollama's `/api/show`.
pub(super) fn context_in_show(shown: &Value) -> Option<u64> {
    let info = shown.get("model_info")?.as_object()?;
    let longest = info
        .iter()
        .filter(|(key, _)| key.ends_with(".context_length"))
        .find_map(|(_, value)| value.as_u64().filter(|size| *size > 0));
    let set = shown.get("parameters").and_then(Value::as_str);
    let set = set.unwrap_or_default().lines().find_map(|line| {
        let number = line.trim().strip_prefix("num_ctx")?.trim();
        number.parse::<u64>().ok().filter(|size| *size > 0)
    });
    let served = set.unwrap_or(OLLAMA_CONTEXT);
    Some(longest.map_or(served, |longest| served.min(longest)))
}

/// Whether a model is among these names. Ollama adds `:latest` where there is no tag.
pub(super) fn has(names: &HashSet<String>, model: &str) -> bool {
    const LATEST: &str = ":latest";
    let untagged = model.strip_suffix(LATEST);
    names.contains(model)
        || untagged.is_some_and(|model| names.contains(model))
        || names.contains(&format!("{model}{LATEST}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contexts(list: &Value) -> Vec<(String, Option<u64>)> {
        let models = listed(list).unwrap();
        let pair = |model: ModelInfo| (model.id, model.context_size);
        models.into_iter().map(pair).collect()
    }

    #[test]
    fn each_server_names_its_window_in_its_own_way() {
        let list = json!({"object": "list", "data": [
            {"id": "vllm", "object": "model", "max_model_len": 32_768},
            {"id": "llama.cpp", "meta": {"n_ctx_train": 131_072, "n_params": 1}},
            {"id": "openrouter", "context_length": 200_000},
            {"id": "ollama", "owned_by": "library"},
            {"id": "odd", "max_model_len": "many"},
            {"id": ""}, {"name": "no id"}, 5,
        ]});
        let name = |name: &str, size| (name.to_owned(), size);
        let expected = [
            name("vllm", Some(32_768)),
            name("llama.cpp", Some(131_072)),
            name("openrouter", Some(200_000)),
            name("ollama", None),
            name("odd", None),
        ];
        assert_eq!(contexts(&list), expected);
        assert_eq!(listed(&json!({"data": null})), None);
        assert_eq!(listed(&json!("<html>")), None);
    }

    #[test]
    fn ollama_serves_what_is_set_and_not_what_the_model_could() {
        let show = |parameters: &str, longest: u64| {
            context_in_show(&json!({
                "parameters": parameters,
                "model_info": {"general.architecture": "llama", "llama.context_length": longest},
            }))
        };
        assert_eq!(
            show("stop \"x\"\nnum_ctx                        16384", 131_072),
            Some(16_384)
        );
        assert_eq!(show("", 131_072), Some(4_096));
        assert_eq!(show("", 2_048), Some(2_048));
        assert_eq!(context_in_show(&json!({"error": "not found"})), None);
    }

    #[test]
    fn llama_cpp_tells_the_window_of_a_slot() {
        let props = json!({"default_generation_settings": {"n_ctx": 8_192}, "total_slots": 4});
        assert_eq!(context_in_props(&props), Some(8_192));
        assert_eq!(context_in_props(&json!({})), None);
    }

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        let names = ["llama3.2:latest", "phi4", "qwen:3b"]
            .map(str::to_owned)
            .into();
        for model in [
            "llama3.2",
            "llama3.2:latest",
            "phi4",
            "phi4:latest",
            "qwen:3b",
        ] {
            assert!(has(&names, model), "{model}");
        }
        for model in ["qwen", "qwen:latest", "llama3.2:1b", ""] {
            assert!(!has(&names, model), "{model}");
        }
    }
}
