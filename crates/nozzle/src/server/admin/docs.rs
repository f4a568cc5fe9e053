//! `/docs`: the routes for a person, from the OpenAPI document alone; no script and nothing from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Nozzle Admin API</title><style>\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h2{margin-top:2rem}code{font-size:.95em}.m{display:inline-block;min-width:4.5rem;font-weight:700}\
li{margin:.3rem 0}p{margin:.2rem 0 .2rem 4.5rem}table{margin-left:4.5rem;border-spacing:.8rem .1rem}\
</style><h1>Nozzle Admin API</h1><p style=\"margin-left:0\">The whole document: <a href=\"openapi.json\">openapi.json</a>. \
Errors are <code>{\"error_code\", \"error_message\"}</code>.</p>";

/// The page.
pub fn page(document: &Value) -> String {
    let mut text = HEAD.to_owned();
    let mut last_tag = "";
    let mut operations = operations(document);
    operations.sort_by_key(|operation| (operation.tag, operation.path));
    for Operation { path, method, tag, value } in operations {
        if tag != last_tag {
            let _ = write!(text, "<h2>{}</h2>", escaped(tag));
            last_tag = tag;
        }
        let _ = write!(
            text,
            "<div><span class=\"m\">{}</span><code>{}</code><p>{}</p>",
            method.to_uppercase(),
            escaped(path),
            escaped(value["summary"].as_str().unwrap_or_default()),
        );
        let parameters = value["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !parameters.is_empty() {
            text += "<table>";
            for parameter in parameters {
                let said = |key: &str| escaped(parameter[key].as_str().unwrap_or_default());
                let _ = write!(
                    text,
                    "<tr><td><code>{}</code><td>{}<td>{}",
                    said("name"),
                    said("in"),
                    said("description")
                );
            }
            text += "</table>";
        }
        text += "</div>";
    }
    text
}

struct Operation<'a> {
    path: &'a str,
    method: &'a str,
    tag: &'a str,
    value: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let operations =
        paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.filter(|(_, value)| value["responses"].is_object()).map(move |(method, value)| {
                Operation { path, method, tag: value["tags"][0].as_str().unwrap_or_default(), value }
            })
        });
    operations.collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
