// What the codes of a font mean that names one of the standard encodings (ISO 32000-1, annex D).

const text = new TextDecoder("macintosh");
const MAC_ROMAN = Array.from({ length: 256 }, (_, code) => (code < 32 ? "" : text.decode(Uint8Array.of(code))));

const WIN_ANSI = Array.from({ length: 256 }, (_, code) => (code < 32 ? "" : String.fromCharCode(code)));
Array.from("€\u2022‚ƒ„…†‡ˆ‰Š‹Œ\u2022Ž\u2022\u2022‘’“”•–—˜™š›œ\u2022žŸ", (letter, at) => (WIN_ANSI[128 + at] = letter)); // unused codes are bullets

/** An encoding from ASCII, with other characters at some codes: "27 ’ 60 ‘". */
function changed(text) {
  const words = text.trim().split(/\s+/);
  const made = Array.from({ length: 256 }, (_, code) => (code >= 32 && code < 127 ? String.fromCharCode(code) : ""));
  for (let at = 0; at < words.length; at += 2) made[Number.parseInt(words[at], 16)] = words[at + 1];
  return made;
}

const STANDARD = changed(`27 ’ 60 ‘ a1 ¡ a2 ¢ a3 £ a4 ⁄ a5 ¥ a6 ƒ a7 § a8 ¤ a9 ' aa “ ab « ac ‹ ad › ae fi af fl b1 – b2 † b3 ‡ b4 · b6 ¶ b7 •
  b8 ‚ b9 „ ba ” bb » bc … bd ‰ bf ¿ c1 \` c2 ´ c3 ˆ c4 ˜ c5 ¯ c6 ˘ c7 ˙ c8 ¨ ca ˚ cb ¸ cd ˝ ce ˛ cf ˇ d0 — e1 Æ e3 ª e8 Ł e9 Ø ea Œ
  eb º f1 æ f5 ı f8 ł f9 ø fa œ fb ß`);

const SYMBOL = changed(`22 ∀ 24 ∃ 27 ∋ 2a ∗ 2d − 40 ≅ 5c ∴ 5e ⊥ 7e ∼ a0 € a1 ϒ a2 ′ a3 ≤ a4 ⁄ a5 ∞ a6 ƒ a7 ♣ a8 ♦ a9 ♥ aa ♠ ab ↔ ac ← ad ↑ ae →
  af ↓ b0 ° b1 ± b2 ″ b3 ≥ b4 × b5 ∝ b6 ∂ b7 • b8 ÷ b9 ≠ ba ≡ bb ≈ bc … bf ↵ c0 ℵ c1 ℑ c2 ℜ c3 ℘ c4 ⊗ c5 ⊕ c6 ∅ c7 ∩ c8 ∪ c9 ⊃ ca ⊇
  cb ⊄ cc ⊂ cd ⊆ ce ∈ cf ∉ d0 ∠ d1 ∇ d2 ® d3 © d4 ™ d5 ∏ d6 √ d7 ⋅ d8 ¬ d9 ∧ da ∨ db ⇔ dc ⇐ dd ⇑ de ⇒ df ⇓ e0 ◊ e1 ⟨ e2 ® e3 © e4 ™
  e5 ∑ f1 ⟩ f2 ∫`);
Array.from("ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", (letter, at) => (SYMBOL[65 + at] = letter));
Array.from("αβχδεφγηιϕκλμνοπθρστυϖωξψζ", (letter, at) => (SYMBOL[97 + at] = letter));

/** The encodings by their names. */
export const ENCODINGS = {
  __proto__: null,
  WinAnsiEncoding: WIN_ANSI,
  MacRomanEncoding: MAC_ROMAN,
  StandardEncoding: STANDARD,
};

/** The encodings of the fonts of signs that every reader has. */
export const OF_FONTS = { __proto__: null, Symbol: SYMBOL, ZapfDingbats: changed("33 ✓ 34 ✔ 35 ✕ 36 ✖ 38 ✘ 48 ★ 6c ● 6e ■ 71 ❑ 75 ◆ a8 ♣ aa ♥ ab ♠ d5 → e8 ➨") };

// TeX's own encodings: OT1 of its first fonts, and T1 (Cork), which has all letters of Europe.
const OT1 = changed(`0b ff 0c fi 0d fl 0e ffi 0f ffl 10 ı 11 ȷ 12 \` 13 ´ 14 ˇ 15 ˘ 16 ¯ 17 ˚ 18 ¸ 19 ß 1a æ 1b œ 1c ø 1d Æ 1e Œ 1f Ø 22 ”
  27 ’ 3c ¡ 3e ¿ 5c “ 60 ‘ 7b – 7c — 7d ˝ 7e ˜ 7f ¨`);
const T1 = changed(`00 \` 01 ´ 02 ˆ 03 ˜ 04 ¨ 05 ˝ 06 ˚ 07 ˇ 08 ˘ 09 ¯ 0a ˙ 0b ¸ 0c ˛ 0d ‚ 0e ‹ 0f › 10 “ 11 ” 12 „ 13 « 14 » 15 – 16 — 19 ı 1a ȷ
  1b ff 1c fi 1d fl 1e ffi 1f ffl 20 ␣ 27 ’ 60 ‘ 7f -`);
const CORK = "ĂĄĆČĎĚĘĞĹĽŁŃŇŊŐŔŘŚŠŞŤŢŰŮŸŹŽŻĲİđ§ăąćčďěęğĺľłńňŋőŕřśšşťţűůÿźžżĳ¡¿£ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖŒØÙÚÛÜÝÞẞàáâãäåæçèéêëìíîïðñòóôõöœøùúûüýþß";
Array.from(CORK, (letter, at) => (T1[128 + at] = letter));

/** The encoding of a font of TeX whose glyphs are bitmaps: their names are only their codes. OT1 has its ligatures at 11 to 15. */
export function encodingOfBitmaps(codes) {
  const has = (first, last) => codes.some((code) => code >= first && code <= last);
  return has(128, 255) || (has(27, 31) && !has(11, 15)) ? T1 : OT1;
}

/** Character maps whose codes are those of an encoding that browsers know: what their names hold, and the encoding's name. */
export const LABELS = [
  [/-UTF16-|-UCS2-/, "utf-16be"], [/^(?:GBK|GB-|GBpc|GBK2K)/, "gb18030"], [/^(?:ETen|B5pc|HKscs|ETenms)/, "big5"],
  [/RKSJ/, "shift_jis"], [/^KSC/, "euc-kr"], [/^EUC-/, "euc-jp"],
];
