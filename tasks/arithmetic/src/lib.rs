//! The smallest tasks: numbers in, a number out.

use celerybox_guest::{TaskError, task, tasks};

/// Adds two numbers.
#[task]
fn add(x: i64, y: i64) -> Result<i64, TaskError> {
    x.checked_add(y).ok_or_else(too_large)
}

/// Multiplies two numbers.
#[task]
fn mul(x: i64, y: i64) -> Result<i64, TaskError> {
    x.checked_mul(y).ok_or_else(too_large)
}

/// Adds a list of numbers.
#[task]
fn tsum(numbers: Vec<i64>) -> Result<i64, TaskError> {
    numbers
        .into_iter()
        .try_fold(0_i64, i64::checked_add)
        .ok_or_else(too_large)
}

/// Divides, and rounds to so many digits when asked to.
#[task]
fn div(x: f64, y: f64, #[keyword_only] digits: Option<i32>) -> Result<f64, TaskError> {
    if y == 0.0 {
        return Err(TaskError::new("ZeroDivisionError", "division by zero"));
    }
    let scale = 10_f64.powi(digits.unwrap_or(0));
    Ok(match digits {
        Some(_) => (x / y * scale).round() / scale,
        None => x / y,
    })
}

/// Python's integers have no end, Rust's do.
fn too_large() -> TaskError {
    TaskError::new("OverflowError", "the result does not fit 64 bits")
}

tasks![add, mul, tsum, div];

#[cfg(test)]
mod tests {
    use super::*;
    use celerybox_guest::testing::TestContext;

    #[test]
    fn a_task_is_a_function() {
        assert_eq!(add(2, 3).unwrap(), 5);
        assert_eq!(mul(4, 5).unwrap(), 20);
        assert_eq!(tsum(vec![1, 2, 3]).unwrap(), 6);
        assert_eq!(div(2.0, 3.0, Some(2)).unwrap(), 0.67);
    }

    #[test]
    fn errors_are_pythons() {
        let error = div(1.0, 0.0, None).unwrap_err();
        assert_eq!(error.to_string(), "ZeroDivisionError: division by zero");
        let error = add(i64::MAX, 1).unwrap_err();
        assert_eq!(error.failure().unwrap().exc_type(), "OverflowError");
    }

    #[test]
    fn arguments_bind_as_in_python() {
        let ctx = TestContext::new();
        assert_eq!(add::TASK.name, "arithmetic.add");
        assert_eq!(ctx.run(add::TASK, "[2]", r#"{"y": 3}"#).unwrap(), "5");
        assert_eq!(ctx.run(div::TASK, "[2, 3]", r#"{"digits": 2}"#).unwrap(), "0.67");
        let error = ctx.run(add::TASK, "[2]", "{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "TypeError: add() missing 1 required positional argument: 'y'"
        );
    }
}
