//! Colours, from the sixteen that the user's terminal defines, so that they fit its background. Every one of them says
//! something that is also there without colours, for those who turn them off (`NO_COLOR`) or can't tell them apart.

use ratatui::style::{Color, Modifier, Style};

use crate::report::origin::Kind;

pub struct Theme {
    is_coloured: bool,
}

impl Theme {
    pub const COLOURED: Theme = Theme { is_coloured: true };
    pub const PLAIN: Theme = Theme { is_coloured: false };

    /// Without colours when `NO_COLOR` is set to something (<https://no-color.org>).
    pub fn of_environment() -> Theme {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_plain { Theme::PLAIN } else { Theme::COLOURED }
    }

    /// A number that is so much of the whole.
    pub fn share(&self, share: f64) -> Style {
        match share {
            _ if share > 0.6 => self.colour(Color::Red),
            _ if share > 0.2 => self.colour(Color::Yellow),
            _ if share > 0.05 => self.colour(Color::Green),
            _ => Style::new(),
        }
    }

    /// The name of a function, by whose code it is.
    pub fn function(&self, kind: Kind) -> Style {
        match kind {
            Kind::Project | Kind::Root => Style::new().add_modifier(Modifier::BOLD),
            Kind::Library => Style::new(),
            _ => self.faint(),
        }
    }

    pub fn place(&self) -> Style {
        self.colour(Color::Cyan)
    }

    pub fn faint(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn plain(&self) -> Style {
        Style::new()
    }

    pub fn strong(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What keys act on.
    pub fn chosen(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub fn found(&self) -> Style {
        self.colour(Color::Magenta).add_modifier(Modifier::UNDERLINED | Modifier::BOLD)
    }

    pub fn warning(&self) -> Style {
        self.colour(Color::Yellow)
    }

    fn colour(&self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }
}
