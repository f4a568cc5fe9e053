//! The known name that a mistyped one was meant to be.

/// The name of `known` that is nearest to `given`, where one is near enough to be meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (given.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// The nearest name as the end of an error message: `; did you mean …?`, or nothing.
pub fn suggestion<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["eth_mainnet", "eth_sepolia", "anvil"];
        assert_eq!(nearest("eth_manet", known), Some("eth_mainnet"));
        assert_eq!(nearest("anvl", known), Some("anvil"));
        assert_eq!(nearest("polygon", known), None);
        assert_eq!(suggestion("anvli", known), "; did you mean `anvil`?");
        assert_eq!(suggestion("x", []), "");
    }
}
