//! What to paste next.

use serde_json::{Value, json};

use super::screen::Screen;

/// Shows it for the real endpoint and model.
pub(super) fn show(url: &str, model: &str, screen: &Screen) {
    screen.title("Now it is your turn. Paste one of these into another terminal:");
    for (name, text) in [
        ("curl", curl(url, model)),
        ("Python", python(url, model)),
        ("JavaScript", javascript(url, model)),
    ] {
        screen.line(&screen.faint(&format!("# {name}")));
        screen.line(&text);
        screen.line("");
    }
    screen.line(&format!(
        "Any OpenAI client works: base URL {url}, any API key. Each job is shown below."
    ));
    screen.line("Ctrl-C ends it all and removes the two nodes' files.\n");
}

fn request(model: &str) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": true,
    })
}

// Each is a here-document with a quoted end, in which a shell changes nothing; a model's name is
// quoted as JSON, which Python and JavaScript read alike.

fn curl(url: &str, model: &str) -> String {
    let request = request(model);
    format!(
        "curl -N {url}/chat/completions -H 'Content-Type: application/json' -d @- <<'END'\n\
         {request}\n\
         END"
    )
}

fn python(url: &str, model: &str) -> String {
    let model = Value::from(model);
    format!(
        r#"pip install openai && python3 - <<'END'
from openai import OpenAI
client = OpenAI(base_url="{url}", api_key="unused")
messages = [{{"role": "user", "content": "Hello!"}}]
for chunk in client.chat.completions.create(model={model}, messages=messages, stream=True):
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
END"#
    )
}

fn javascript(url: &str, model: &str) -> String {
    let model = Value::from(model);
    format!(
        r#"npm install openai && node --input-type=module - <<'END'
import OpenAI from "openai";
const client = new OpenAI({{ baseURL: "{url}", apiKey: "unused" }});
const messages = [{{ role: "user", content: "Hello!" }}];
const answer = await client.chat.completions.create({{ model: {model}, messages, stream: true }});
for await (const chunk of answer) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
console.log();
END"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hint_names_the_endpoint_and_the_model() {
        let (url, model) = ("http://127.0.0.1:9002/v1", "it's \"a\" model");
        for hint in [curl(url, model), python(url, model), javascript(url, model)] {
            assert!(hint.contains(url), "{hint}");
            assert!(hint.contains(r#""it's \"a\" model""#), "{hint}");
            assert!(hint.ends_with("\nEND"), "{hint}");
        }
    }
}
