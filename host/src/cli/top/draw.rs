//! The picture: a function of what is known and how it is looked at.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, TableState};

use super::fleet::{Fleet, Task};
use super::view::{Pane, View};
use crate::cli::terminal::cut;

/// Workers get at most so many lines, while there is a list below.
const WORKERS: usize = 8;

/// What is drawn beside the fleet.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// The broker, for people.
    pub(super) place: String,
    pub(super) color: bool,
    /// Of the monitor's clock, seconds.
    pub(super) now: f64,
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, fleet: &Fleet, view: &View, around: &Surroundings) {
    let workers = fleet.workers.len().clamp(1, WORKERS);
    let lines = u16::try_from(workers + 1).unwrap_or(u16::MAX);
    let [title, summary, worker_area, list, detail, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(lines),
        Constraint::Min(3),
        Constraint::Length(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let paint = Paint(around.color);
    frame.render_widget(Paragraph::new(heading(view, around, paint)), title);
    frame.render_widget(Paragraph::new(counts(fleet, around.now, paint)), summary);
    draw_workers(frame, worker_area, fleet, around.now, paint);
    match view.pane {
        Pane::Tasks => draw_tasks(frame, [list, detail], fleet, view, around.now, paint),
        Pane::Names => draw_names(frame, list, fleet, around.now, paint),
    }
    frame.render_widget(Paragraph::new(keys(fleet, view)).style(paint.reversed()), footer);
}

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn color(self, color: Color) -> Style {
        match self.0 {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    fn reversed(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn state(self, state: &str) -> Style {
        match state {
            "STARTED" => self.color(Color::Cyan),
            "SUCCESS" => self.color(Color::Green),
            "FAILURE" | "REJECTED" => self.color(Color::Red),
            "RETRY" | "REVOKED" | "CANCELLED" => self.color(Color::Yellow),
            _ => Style::new(),
        }
    }
}

fn heading(view: &View, around: &Surroundings, paint: Paint) -> Line<'static> {
    let mut line = Line::from(vec![
        Span::styled("celerybox top", paint.bold()),
        Span::raw(format!("  {}", cut(&around.place, 50))),
    ]);
    if view.paused {
        line.push_span(Span::styled("  PAUSED", paint.color(Color::Yellow)));
    }
    line
}

fn counts(fleet: &Fleet, now: f64, paint: Paint) -> Line<'static> {
    let online = fleet
        .workers
        .values()
        .filter(|worker| worker.is_online(now))
        .count();
    let failed: u64 = fleet.kinds.values().map(|kind| kind.failed).sum();
    let succeeded: u64 = fleet.kinds.values().map(|kind| kind.succeeded).sum();
    let style = match failed {
        0 => Style::new(),
        _ => paint.color(Color::Red),
    };
    Line::from(vec![
        Span::raw(format!(
            "{online} of {} workers online   {} running   {:.1}/s   {succeeded} succeeded   ",
            fleet.workers.len(),
            fleet.running(),
            fleet.per_second(now)
        )),
        Span::styled(format!("{failed} failed"), style),
    ])
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, fleet: &Fleet, now: f64, paint: Paint) {
    let known = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
    let row = |(name, worker): (&String, &super::fleet::Worker)| {
        let (state, style) = match worker.is_online(now) {
            true => ("online", paint.color(Color::Green)),
            false => ("offline", paint.color(Color::Red)),
        };
        let pool = if worker.pool.is_empty() { "-" } else { &worker.pool };
        Row::new(vec![
            Line::raw(name.clone()),
            Line::styled(state, style),
            Line::raw(pool.to_owned()),
            Line::raw(format!("{}/{}", known(worker.active), known(worker.slots))).right_aligned(),
            Line::raw(worker.load.map_or("-".into(), |load| format!("{load:.2}"))).right_aligned(),
            Line::raw(known(worker.processed)).right_aligned(),
            Line::raw(worker.queues.join(",")),
        ])
    };
    // Those that are gone come last, and make room first.
    let mut workers: Vec<_> = fleet.workers.iter().collect();
    workers.sort_by_key(|(_, worker)| !worker.is_online(now));
    let room = usize::from(area.height).saturating_sub(1);
    let hidden = workers.len().saturating_sub(room);
    let shown = if hidden > 0 { room.saturating_sub(1) } else { room };
    let mut rows: Vec<Row<'_>> = workers.iter().take(shown).map(|worker| row(*worker)).collect();
    if hidden > 0 {
        rows.push(Row::new(vec![format!("… and {} more", workers.len() - shown)]));
    }
    if workers.is_empty() {
        rows.push(Row::new(vec!["no worker yet"]));
    }
    let widths = [
        Constraint::Fill(3),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Fill(2),
    ];
    let right = |text: &'static str| Line::raw(text).right_aligned();
    let header = Row::new(vec![
        Line::raw("WORKER"),
        Line::raw("STATE"),
        Line::raw("POOL"),
        right("ACTIVE"),
        right("LOAD"),
        right("PROCESSED"),
        Line::raw("QUEUES"),
    ]);
    frame.render_widget(
        Table::new(rows, widths).header(header.style(paint.reversed())),
        area,
    );
}

fn draw_tasks(
    frame: &mut Frame<'_>,
    [list, detail]: [Rect; 2],
    fleet: &Fleet,
    view: &View,
    now: f64,
    paint: Paint,
) {
    let tasks = view.tasks(fleet, now);
    let position = view.position(&tasks);
    let room = usize::from(list.height).saturating_sub(1);
    // Only what is seen becomes rows.
    let first = (position + 1).saturating_sub(room);
    let rows = tasks.iter().skip(first).take(room).map(|(id, task)| {
        Row::new(vec![
            Line::raw(id.chars().take(8).collect::<String>()),
            Line::raw(task.name.clone()),
            Line::styled(task.state.clone(), paint.state(&task.state)),
            Line::raw(task.worker.clone()),
            Line::raw(task.time(now).map_or("-".into(), seconds)).right_aligned(),
        ])
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Fill(3),
        Constraint::Length(9),
        Constraint::Fill(2),
        Constraint::Length(8),
    ];
    let header = Row::new(vec![
        Line::raw("TASK"),
        Line::raw("NAME"),
        Line::raw("STATE"),
        Line::raw("WORKER"),
        Line::raw("TIME").right_aligned(),
    ]);
    let table = Table::new(rows, widths)
        .header(header.style(paint.reversed()))
        .row_highlight_style(paint.bold().add_modifier(Modifier::UNDERLINED));
    let mut state =
        TableState::default().with_selected((!tasks.is_empty()).then(|| position.saturating_sub(first)));
    frame.render_stateful_widget(table, list, &mut state);
    if let Some((id, task)) = tasks.get(position) {
        frame.render_widget(Paragraph::new(described(id, task)), detail);
    }
}

/// Two lines on the task that is chosen.
fn described(id: &str, task: &Task) -> Vec<Line<'static>> {
    let name = if task.name.is_empty() { "?" } else { &task.name };
    vec![
        Line::raw(format!("{id} {name} args={} kwargs={}", task.args, task.kwargs)),
        Line::raw(match task.outcome.is_empty() {
            true => String::new(),
            false => format!("{}: {}", task.state, task.outcome),
        }),
    ]
}

fn draw_names(frame: &mut Frame<'_>, area: Rect, fleet: &Fleet, now: f64, paint: Paint) {
    let running = fleet.running_by_name();
    let mut kinds: Vec<_> = fleet.kinds.iter().collect();
    // Where most of the time goes comes first.
    kinds.sort_by(|(_, a), (_, b)| b.slowest.total_cmp(&a.slowest));
    let number = |text: String| Line::raw(text).right_aligned();
    let rows = kinds.iter().take(usize::from(area.height)).map(|(name, kind)| {
        Row::new(vec![
            Line::raw((*name).clone()),
            number(running.get(name.as_str()).copied().unwrap_or(0).to_string()),
            number(format!("{:.1}", kind.per_second(now))),
            number(kind.succeeded.to_string()),
            number(kind.failed.to_string()),
            number(kind.retried.to_string()),
            number(kind.mean().map_or("-".into(), seconds)),
            number(seconds(kind.slowest)),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let right = |text: &'static str| Line::raw(text).right_aligned();
    let header = Row::new(vec![
        Line::raw("NAME"),
        right("RUNNING"),
        right("PER S"),
        right("SUCCEEDED"),
        right("FAILED"),
        right("RETRIED"),
        right("MEAN"),
        right("SLOWEST"),
    ]);
    frame.render_widget(
        Table::new(rows, widths).header(header.style(paint.reversed())),
        area,
    );
}

/// The last line: what is asked, what came of it, or the keys.
fn keys(fleet: &Fleet, view: &View) -> String {
    if let Some(id) = &view.asking {
        let name = fleet.get(id).map_or("", |task| task.name.as_str());
        let what = cut(&format!("{name} {id}"), 40);
        return format!("Revoke {what}?  y yes  t and terminate it  other keys: no");
    }
    if view.typing {
        return format!("filter: {}_  Enter keep  Esc clear", view.filter);
    }
    if let Some(said) = &view.said {
        return said.clone();
    }
    let filter = match view.filter.as_str() {
        "" => "/ filter".to_owned(),
        filter => format!("/ {}", cut(filter, 12)),
    };
    format!(
        "q quit  ↑↓ choose  Tab tasks/names  s {}  {filter}  r revoke  p pause",
        view.sort.as_str()
    )
}

fn seconds(time: f64) -> String {
    match time {
        t if t < 10.0 => format!("{t:.3}s"),
        t if t < 1000.0 => format!("{t:.1}s"),
        t => format!("{t:.0}s"),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use serde_json::{Value, json};

    use super::*;
    use crate::control::client::Answer;

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        let events = [
            json!({"type": "worker-heartbeat", "hostname": "ours@test", "freq": 2.0, "active": 1, "processed": 12,
                   "loadavg": [0.25, 0.1, 0.1]}),
            json!({"type": "worker-offline", "hostname": "theirs@test", "freq": 2.0, "active": 0, "processed": 3}),
            json!({"type": "task-received", "hostname": "ours@test", "uuid": "11111111-aaaa", "name": "t.add",
                   "args": "(2, 2)", "kwargs": "{}"}),
            json!({"type": "task-succeeded", "hostname": "ours@test", "uuid": "11111111-aaaa", "runtime": 0.5,
                   "result": "4"}),
            json!({"type": "task-received", "hostname": "ours@test", "uuid": "22222222-bbbb", "name": "t.mail",
                   "args": "()", "kwargs": "{'to': 'me'}"}),
            json!({"type": "task-failed", "hostname": "ours@test", "uuid": "22222222-bbbb",
                   "exception": "ValueError('no')"}),
            json!({"type": "task-received", "hostname": "ours@test", "uuid": "33333333-cccc", "name": "t.add",
                   "args": "(1, 1)", "kwargs": "{}"}),
            json!({"type": "task-started", "hostname": "ours@test", "uuid": "33333333-cccc"}),
        ];
        for event in events {
            fleet.hear(event.as_object().unwrap(), 100.0);
        }
        for (method, value) in [
            (
                "stats",
                json!({"pool": {"implementation": "celerybox:sandbox", "max-concurrency": 4}}),
            ),
            ("active_queues", json!([{"name": "celery"}, {"name": "mail"}])),
        ] {
            let node = "ours@test".into();
            fleet.answered(method, &Answer { node, value }, 100.0);
        }
        fleet
    }

    fn screen(fleet: &Fleet, view: &View, size: (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        let around = Surroundings {
            place: "redis://localhost".into(),
            color: true,
            now: 101.5,
        };
        terminal.draw(|frame| draw(frame, fleet, view, &around)).unwrap();
        let buffer = terminal.backend().buffer();
        let symbols =
            |line: &[ratatui::buffer::Cell]| line.iter().map(|cell| cell.symbol()).collect::<String>();
        let lines = buffer.content().chunks(usize::from(size.0)).map(symbols);
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    fn press(view: &mut View, fleet: &Fleet, key: KeyCode) {
        view.key(KeyEvent::new(key, KeyModifiers::NONE), fleet, 101.5);
    }

    #[test]
    fn tasks_in_80_columns_and_24_lines() {
        let mut expected = vec![
            "celerybox top  redis://localhost",
            "1 of 2 workers online   1 running   0.2/s   1 succeeded   1 failed",
            "WORKER                STATE   POOL        ACTIVE   LOAD PROCESSED QUEUES",
            "ours@test             online  celerybox      1/4   0.25        12 celery,mail",
            "theirs@test           offline -              0/-      -         3",
            "TASK     NAME                            STATE     WORKER                   TIME",
            "33333333 t.add                           STARTED   ours@test              1.500s",
            "22222222 t.mail                          FAILURE   ours@test                   -",
            "11111111 t.add                           SUCCESS   ours@test              0.500s",
        ];
        expected.resize(21, "");
        expected.extend([
            "33333333-cccc t.add args=(1, 1) kwargs={}",
            "",
            "q quit  ↑↓ choose  Tab tasks/names  s newest  / filter  r revoke  p pause",
        ]);
        let mut view = View::default();
        let fleet = fleet();
        assert_eq!(screen(&fleet, &view, (80, 24)), expected);

        press(&mut view, &fleet, KeyCode::Down);
        let lines = screen(&fleet, &view, (80, 24));
        assert_eq!(lines[21], "22222222-bbbb t.mail args=() kwargs={'to': 'me'}");
        assert_eq!(lines[22], "FAILURE: ValueError('no')");
        press(&mut view, &fleet, KeyCode::Char('r'));
        let lines = screen(&fleet, &view, (80, 24));
        let question = "Revoke t.mail 22222222-bbbb?  y yes  t and terminate it  other keys: no";
        assert_eq!(lines[23], question);
    }

    #[test]
    fn names_in_80_columns() {
        let mut view = View::default();
        let fleet = fleet();
        press(&mut view, &fleet, KeyCode::Tab);
        view.paused = true;
        let lines = screen(&fleet, &view, (80, 24));
        assert_eq!(lines[0], "celerybox top  redis://localhost  PAUSED");
        let expected = [
            "NAME                 RUNNING   PER S SUCCEEDED  FAILED RETRIED     MEAN  SLOWEST",
            "t.add                      1     0.1         1       0       0   0.500s   0.500s",
            "t.mail                     0     0.1         0       1       0        -   0.000s",
        ];
        assert_eq!(lines[5..8], expected);
    }

    #[test]
    fn an_empty_fleet_and_odd_sizes_are_drawn() {
        let (empty, view) = (Fleet::default(), View::default());
        assert_eq!(screen(&empty, &view, (80, 24))[3], "no worker yet");
        for size in [(1, 1), (3, 2), (20, 5), (300, 100)] {
            screen(&fleet(), &view, size);
        }
        let mut many = Fleet::default();
        for number in 0..50 {
            let node = format!("w{number:02}@h");
            many.answered(
                "ping",
                &Answer {
                    node,
                    value: Value::Null,
                },
                100.0,
            );
        }
        let lines = screen(&many, &view, (80, 24));
        assert!(
            lines[9].starts_with("w06@h") && lines[10].starts_with("… and 43 more"),
            "{lines:#?}"
        );
    }

    #[test]
    fn a_long_list_follows_the_choice() {
        let mut fleet = Fleet::default();
        for number in 0..100 {
            let event = json!({"type": "task-received", "hostname": "w", "uuid": format!("id{number:02}"), "name": "t"});
            fleet.hear(event.as_object().unwrap(), 100.0);
        }
        let mut view = View::default();
        press(&mut view, &fleet, KeyCode::End);
        let lines = screen(&fleet, &view, (80, 24));
        assert!(lines[20].starts_with("id00"), "{lines:#?}");
        assert!(lines[21].starts_with("id00 t"), "{lines:#?}");
    }
}
