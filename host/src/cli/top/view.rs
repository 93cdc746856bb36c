//! What is looked at: keys in, questions for workers out.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::fleet::{Fleet, Task};

/// The longest filter, characters.
const LONGEST: usize = 80;

/// The list in the lower part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pane {
    /// One line for each task.
    #[default]
    Tasks,
    /// One line for each name of a task.
    Names,
}

/// The order of the tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Newest,
    Slowest,
    Name,
    State,
}

impl Sort {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Slowest => "slowest",
            Self::Name => "name",
            Self::State => "state",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Newest => Self::Slowest,
            Self::Slowest => Self::Name,
            Self::Name => Self::State,
            Self::State => Self::Newest,
        }
    }
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing more than to be drawn.
    Draw,
    /// The end.
    Quit,
    /// Revoke this task, and end it with `terminate`.
    Revoke { id: String, terminate: bool },
    /// Hold the picture, or let it go on.
    Pause,
}

/// How the fleet is looked at.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) pane: Pane,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Keys are the filter's.
    pub(super) typing: bool,
    /// The id of the task that is chosen; the first one until somebody chooses.
    pub(super) selected: Option<String>,
    /// The task that is to be revoked, if that is meant.
    pub(super) asking: Option<String>,
    pub(super) paused: bool,
    /// What came of the last question.
    pub(super) said: Option<String>,
}

impl View {
    /// The tasks as they are to be shown.
    pub(super) fn tasks<'a>(&self, fleet: &'a Fleet, now: f64) -> Vec<(&'a str, &'a Task)> {
        let filter = self.filter.to_lowercase();
        let wanted = |text: &str| text.to_lowercase().contains(&filter);
        let mut tasks: Vec<(&str, &Task)> = fleet
            .tasks()
            .filter(|(id, task)| {
                [*id, &task.name, &task.state, &task.worker]
                    .iter()
                    .any(|text| wanted(text))
            })
            .collect();
        tasks.sort_unstable_by(|(_, a), (_, b)| {
            let newest = b.number.cmp(&a.number);
            match self.sort {
                Sort::Newest => newest,
                Sort::Slowest => {
                    let time = |task: &Task| task.time(now).unwrap_or(-1.0);
                    time(b).total_cmp(&time(a)).then(newest)
                }
                Sort::Name => a.name.cmp(&b.name).then(newest),
                Sort::State => a.state.cmp(&b.state).then(newest),
            }
        });
        tasks
    }

    /// Which of these tasks is chosen.
    pub(super) fn position(&self, tasks: &[(&str, &Task)]) -> usize {
        let selected = self.selected.as_deref();
        tasks
            .iter()
            .position(|(id, _)| Some(*id) == selected)
            .unwrap_or(0)
    }

    /// Does what a key says.
    pub(super) fn key(&mut self, key: KeyEvent, fleet: &Fleet, now: f64) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Action::Quit,
                _ => Action::Draw,
            };
        }
        if let Some(id) = self.asking.take() {
            return match key.code {
                KeyCode::Char('y') => Action::Revoke { id, terminate: false },
                KeyCode::Char('t') => Action::Revoke { id, terminate: true },
                _ => Action::Draw,
            };
        }
        if self.typing {
            self.type_filter(key.code);
            return Action::Draw;
        }
        self.said = None;
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('p' | ' ') => return Action::Pause,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
                self.pane = match self.pane {
                    Pane::Tasks => Pane::Names,
                    Pane::Names => Pane::Tasks,
                };
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(fleet, now, -1),
            KeyCode::Down | KeyCode::Char('j') => self.select(fleet, now, 1),
            KeyCode::PageUp => self.select(fleet, now, -10),
            KeyCode::PageDown => self.select(fleet, now, 10),
            KeyCode::Home => self.selected = None,
            KeyCode::End => self.select(fleet, now, isize::MAX),
            KeyCode::Char('r') if self.pane == Pane::Tasks => {
                let tasks = self.tasks(fleet, now);
                let chosen = tasks.get(self.position(&tasks)).map(|(id, _)| (*id).to_owned());
                // What is asked about stays chosen, whatever comes meanwhile.
                self.selected.clone_from(&chosen);
                self.asking = chosen;
            }
            _ => {}
        }
        Action::Draw
    }

    fn select(&mut self, fleet: &Fleet, now: f64, by: isize) {
        let tasks = self.tasks(fleet, now);
        let last = tasks.len().saturating_sub(1);
        let to = self.position(&tasks).saturating_add_signed(by).min(last);
        let chosen = tasks.get(to).map(|(id, _)| (*id).to_owned());
        self.selected = chosen;
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < LONGEST => {
                self.filter.push(c)
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for (kind, id, name, runtime) in [
            ("task-succeeded", "1", "t.add", 2.0),
            ("task-failed", "2", "t.mail", 0.0),
            ("task-succeeded", "3", "t.add", 9.0),
        ] {
            let event =
                json!({"type": kind, "hostname": "w1@h", "uuid": id, "name": name, "runtime": runtime});
            fleet.hear(event.as_object().unwrap(), 1.0);
        }
        fleet
    }

    fn press(view: &mut View, fleet: &Fleet, keys: &str) -> Action {
        let mut action = Action::Draw;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\u{8}' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            action = view.key(KeyEvent::new(code, KeyModifiers::NONE), fleet, 1.0);
        }
        action
    }

    fn ids<'a>(view: &View, fleet: &'a Fleet) -> Vec<&'a str> {
        view.tasks(fleet, 1.0).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn tasks_are_sorted_and_filtered() {
        let (mut view, fleet) = (View::default(), fleet());
        for order in [["3", "2", "1"], ["3", "1", "2"], ["3", "1", "2"], ["2", "3", "1"]] {
            assert_eq!(ids(&view, &fleet), order, "{:?}", view.sort);
            press(&mut view, &fleet, "s");
        }
        press(&mut view, &fleet, "/MAIq\u{8}");
        assert_eq!((ids(&view, &fleet), view.typing), (vec!["2"], true));
        press(&mut view, &fleet, "\n");
        assert_eq!((ids(&view, &fleet), view.typing), (vec!["2"], false));
        press(&mut view, &fleet, "\u{1b}");
        assert_eq!(ids(&view, &fleet).len(), 3);
        press(&mut view, &fleet, &format!("/{}", "x".repeat(1000)));
        assert_eq!(view.filter.len(), LONGEST);
    }

    #[test]
    fn a_task_is_revoked_only_after_a_second_key() {
        let (mut view, mut fleet) = (View::default(), fleet());
        for (keys, expected) in [
            (
                "jry",
                Action::Revoke {
                    id: "2".into(),
                    terminate: false,
                },
            ),
            (
                "rt",
                Action::Revoke {
                    id: "2".into(),
                    terminate: true,
                },
            ),
            ("rn", Action::Draw),
            ("y", Action::Draw),
            ("r\n", Action::Draw),
            ("rq", Action::Draw),
            ("q", Action::Quit),
            ("p", Action::Pause),
        ] {
            assert_eq!(press(&mut view, &fleet, keys), expected, "{keys:?}");
        }
        // A new task moves the list; the chosen one stays chosen.
        let event = json!({"type": "task-received", "hostname": "w1@h", "uuid": "4", "name": "t"});
        fleet.hear(event.as_object().unwrap(), 1.0);
        let revoked = press(&mut view, &fleet, "ry");
        assert_eq!(
            revoked,
            Action::Revoke {
                id: "2".into(),
                terminate: false
            }
        );
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut view, &fleet, "/");
        assert_eq!(view.key(control_c, &fleet, 1.0), Action::Quit);
    }

    #[test]
    fn the_choice_stays_in_the_list() {
        let (mut view, fleet) = (View::default(), fleet());
        press(&mut view, &fleet, "kkk");
        assert_eq!(view.selected.as_deref(), Some("3"));
        press(&mut view, &fleet, "jjjjj");
        assert_eq!(view.selected.as_deref(), Some("1"));
        let empty = Fleet::default();
        assert_eq!(press(&mut view, &empty, "jkry"), Action::Draw);
    }
}
