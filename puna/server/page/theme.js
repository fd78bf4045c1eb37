// Light, dark, or as the system has it ("system"). A module of its own, so that the page is never shown in the wrong one.

const NAME = "puna.theme";
export const THEMES = ["system", "light", "dark"];

export const readTheme = () => localStorage.getItem(NAME) ?? "system";

export function useTheme(theme) {
  localStorage.setItem(NAME, theme);
  show(theme);
}

function show(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

show(readTheme());
