//! `{% generation %}` … `{% endgeneration %}`: tags around what a model says, used in training only.

/// Replaces the tags by `with` tags, which do nothing and treat white space and scopes alike.
pub(super) fn rewrite(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    while let Some(open) = rest.find("{%").into_iter().chain(find_skipped(rest, raw)).min() {
        let (text, tag) = rest.split_at(open);
        output.push_str(text);
        let Some(end) = tag.find(closing(tag)) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        rest = after;
        match tag.strip_prefix("{%").map(name) {
            Some("generation") if !raw => output.push_str(&tag.replace("generation", "with")),
            Some("endgeneration") if !raw => output.push_str(&tag.replace("endgeneration", "endwith")),
            name => {
                raw = name == Some("raw") || (raw && name != Some("endraw"));
                output.push_str(tag);
            }
        }
    }
    output + rest
}

/// The next comment or expression, whose contents are not tags. In a raw block neither exists.
fn find_skipped(text: &str, raw: bool) -> Option<usize> {
    if raw { None } else { text.find("{#").into_iter().chain(text.find("{{")).min() }
}

fn closing(tag: &str) -> &'static str {
    match tag.as_bytes().get(1) {
        Some(b'#') => "#}",
        Some(b'{') => "}}",
        _ => "%}",
    }
}

/// The contents of a tag, without the signs that control white space.
fn name(tag: &str) -> &str {
    tag.trim_end_matches("%}").trim_matches(['-', '+']).trim()
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn only_the_tags_change() {
        assert_eq!(rewrite("a{%- generation -%}b{%endgeneration+%}c"), "a{%- with -%}b{%endwith+%}c");
        for same in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{% raw %}{# {% generation %}{% endraw %}",
            "{% set generation = 1 %}{{ generation }}",
            "{% if x",
            "{{ x",
            "",
        ] {
            assert_eq!(rewrite(same), same);
        }
        assert_eq!(rewrite("{% raw %}{{{% endraw %}{% generation %}"), "{% raw %}{{{% endraw %}{% with %}");
    }
}
