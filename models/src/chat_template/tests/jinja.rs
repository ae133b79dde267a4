//! Against Jinja2, row by row (models/tests/text/make_jinja.py).

use super::*;

fn ask(variables: &Value) -> ChatRequest {
    ChatRequest { kwargs: variables.as_object().unwrap().clone(), ..hello() }
}

fn render_or_refuse(template: &str, request: &ChatRequest) -> Result<String, String> {
    let template = ChatTemplate::from_source(template, SpecialTokens::default());
    template.map_err(|error| error.to_string())?.render(request).map_err(|error| error.to_string())
}

/// What Jinja2 renders is rendered alike, and what it refuses is refused.
#[test]
fn rows_agree_with_jinja2() {
    let golden = golden_file("jinja.json");
    let request = ask(&golden["variables"]);
    let (mut rows, mut wrong) = (0, Vec::new());
    for (table, groups) in golden["tables"].as_object().unwrap() {
        for (group, cases) in groups.as_object().unwrap() {
            for case in cases.as_array().unwrap() {
                let (template, expected) = (case[0].as_str().unwrap(), case[1].as_str());
                let found = render_or_refuse(template, &request);
                rows += 1;
                if found.as_deref().ok() != expected {
                    wrong.push(format!(
                        "{table}, {group}: {template}\n  Jinja2 {expected:?}\n  here {found:?}"
                    ));
                }
            }
        }
    }
    assert!(rows > 380 && wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let golden = golden_file("jinja.json");
    let request = ask(&golden["variables"]);
    for (name, template) in golden["refused"].as_object().unwrap() {
        let error = render_or_refuse(template.as_str().unwrap(), &request).unwrap_err();
        assert!(error.contains(name), "{template}: {error}");
    }
}

/// Once such a row agrees, it belongs into the tables.
#[test]
fn known_differences_are_still_there() {
    let golden = golden_file("jinja.json");
    let request = ask(&golden["variables"]);
    for case in golden["different"].as_array().unwrap() {
        let found = render_or_refuse(case[0].as_str().unwrap(), &request);
        assert_ne!(found.as_deref().ok(), case[1].as_str(), "{}", case[0]);
    }
}
