// Anagrams in a text: groups of two or more distinct words made of the same letters. A word is a run of
// three or more ASCII letters, without regard to case.
'use strict';

exports.handler = async (payload) => {
  const groups = new Map();
  for (const word of new Set(payload.toString('latin1').toLowerCase().match(/[a-z]+/g) ?? [])) {
    if (word.length < 3) continue;
    const letters = [...word].sort().join('');
    groups.set(letters, [...(groups.get(letters) ?? []), word]);
  }
  const found = [...groups.values()].filter((words) => words.length > 1).map((words) => words.sort());
  return { groups: found.sort((a, b) => (a[0] < b[0] ? -1 : 1)) };
};
