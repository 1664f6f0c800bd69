# What of an interrupted run is kept, read line by line from its file: jq -n -R -c --slurpfile about NOW --slurpfile plan PLAN.
# The lines that say what the figures belong to have to be those of now. Of a round in which a turn is missing or failed nothing
# stays, because its turns are compared with each other; in scenarios whose turns take minutes the turns that are there stay.
def about: map(select(.scenario == "about") | del(.date, .commit, .took_s));
def turn: {scenario, cell, round, backend, peer};
def unit: [.scenario, .cell, .round, if .scenario == "pinned" or .scenario == "million" then .peer else null end];
def differences($old; $new):
  if ($old | length) != ($new | length) then "other systems" else
    [range($old | length) as $i | (($old[$i] + $new[$i]) | keys_unsorted[]) as $key | select($old[$i][$key] != $new[$i][$key])
     | "\($key)\(if $old[$i].peer == "-" then "" else " of \($old[$i].peer)" end)"] | unique | join(", ") end;

# A line that was being written when the run was interrupted is none.
[inputs | fromjson? // empty] as $kept
| ($kept | about) as $old
| ($about | about) as $new
| if $old != $new then
    "this is not the run that was interrupted (\(differences($old; $new))): its results are not mixed with others\n" | halt_error(1)
  else
    [$kept[] | select(.scenario != "about" and (.error | not))] as $turns
    | ($turns | map(turn)) as $there
    | ($plan | map(select([.] - $there != [])) | map(unit) | unique) as $incomplete
    | ($kept[] | select(.scenario == "about")),
      ($turns[] | select([unit] - $incomplete != []))
  end
