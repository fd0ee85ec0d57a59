//! Sentences of many kinds with their length in `o200k_base`.

/// Kind, tokens, text.
pub(super) const CORPUS: &[(&str, u32, &str)] = &[
    (
        "English",
        37,
        "The harbour master wrote down every ship that came in, and by noon the page was full. She asked whether we could postpone the inspection until Thursday, because the crane had broken again.",
    ),
    (
        "chat",
        38,
        "lol ok brb!! gonna grab lunch w/ Priya, wanna come? we're thinking ramen @ 12:30 :) pls lmk asap, otherwise idk maybe tmrw?",
    ),
    (
        "technical English",
        28,
        "Deserialization failures propagate asynchronously; idempotent retransmissions require monotonically increasing identifiers, otherwise misconfigured reconciliations overwrite authoritative acknowledgements.",
    ),
    (
        "German",
        40,
        "Die Hafenmeisterin schrieb jedes einlaufende Schiff auf, und mittags war die Seite voll. Die Geschwindigkeitsbegrenzung auf der Donaubrücke wurde gestern überraschenderweise aufgehoben.",
    ),
    (
        "French",
        48,
        "La capitaine du port notait chaque navire qui arrivait, et à midi la page était pleine. Elle s'est demandé s'il fallait repousser l'inspection à jeudi, puisque la grue était encore tombée en panne.",
    ),
    (
        "Spanish",
        46,
        "La capitana del puerto anotaba cada barco que llegaba y al mediodía la página estaba llena. ¿Podríamos aplazar la inspección hasta el jueves? La grúa se ha estropeado otra vez.",
    ),
    (
        "Portuguese",
        35,
        "A comandante do porto anotava cada navio que chegava e ao meio-dia a página estava cheia. Não sabemos se a inspeção pode ser adiada até quinta-feira.",
    ),
    (
        "Polish",
        56,
        "Kapitan portu zapisywała każdy wpływający statek i w południe strona była pełna. Zapytała, czy możemy przełożyć przegląd na czwartek, ponieważ dźwig znowu się zepsuł.",
    ),
    (
        "Czech",
        59,
        "Přístavní kapitánka zapisovala každou připlouvající loď a v poledne byla stránka plná. Zeptala se, jestli můžeme kontrolu odložit na čtvrtek, protože jeřáb je zase rozbitý.",
    ),
    (
        "Hungarian",
        58,
        "A kikötőmester minden érkező hajót feljegyzett, és délre megtelt az oldal. Megkérdezte, hogy elhalaszthatjuk-e csütörtökig az ellenőrzést, mert a daru ismét elromlott.",
    ),
    (
        "Finnish",
        57,
        "Satamakapteeni kirjasi jokaisen saapuvan laivan muistiin, ja keskipäivään mennessä sivu oli täynnä. Hän kysyi, voisimmeko lykätä tarkastusta torstaihin, koska nosturi oli taas rikki.",
    ),
    (
        "Turkish",
        49,
        "Liman başkanı gelen her gemiyi not etti ve öğlene kadar sayfa dolmuştu. Vinç yine bozulduğu için denetimi perşembeye erteleyip erteleyemeyeceğimizi sordu.",
    ),
    (
        "Vietnamese",
        50,
        "Bà trưởng cảng ghi lại mọi con tàu cập bến, và đến trưa thì trang giấy đã kín. Bà hỏi liệu chúng tôi có thể hoãn cuộc kiểm tra đến thứ Năm vì cần cẩu lại hỏng.",
    ),
    (
        "Swahili",
        43,
        "Mkuu wa bandari aliandika kila meli iliyoingia, na kufikia adhuhuri ukurasa ulikuwa umejaa. Aliuliza kama tunaweza kuahirisha ukaguzi hadi Alhamisi.",
    ),
    (
        "Russian",
        49,
        "Начальница порта записывала каждый прибывающий корабль, и к полудню страница была заполнена. Она спросила, можно ли перенести проверку на четверг, потому что кран опять сломался.",
    ),
    (
        "Ukrainian",
        59,
        "Начальниця порту записувала кожен корабель, що прибував, і до полудня сторінка була заповнена. Вона запитала, чи можна перенести перевірку на четвер, бо кран знову зламався.",
    ),
    (
        "Greek",
        60,
        "Η λιμενάρχης σημείωνε κάθε πλοίο που έφτανε και ως το μεσημέρι η σελίδα είχε γεμίσει. Ρώτησε αν μπορούμε να αναβάλουμε την επιθεώρηση για την Πέμπτη.",
    ),
    (
        "Arabic",
        46,
        "كانت مديرة الميناء تسجل كل سفينة تصل، وعند الظهر امتلأت الصفحة. سألت إن كان بإمكاننا تأجيل التفتيش إلى يوم الخميس لأن الرافعة تعطلت مرة أخرى.",
    ),
    (
        "Hebrew",
        46,
        "מנהלת הנמל רשמה כל אונייה שנכנסה, ועד הצהריים הדף היה מלא. היא שאלה אם אפשר לדחות את הבדיקה ליום חמישי כי המנוף שוב התקלקל.",
    ),
    (
        "Hindi",
        42,
        "बंदरगाह की प्रमुख ने आने वाले हर जहाज़ को लिख लिया और दोपहर तक पन्ना भर गया। उन्होंने पूछा कि क्या हम निरीक्षण को गुरुवार तक टाल सकते हैं।",
    ),
    (
        "Bengali",
        44,
        "বন্দরের প্রধান প্রতিটি জাহাজের নাম লিখে রাখলেন এবং দুপুরের মধ্যে পাতাটি ভরে গেল। তিনি জিজ্ঞাসা করলেন পরিদর্শন বৃহস্পতিবার পর্যন্ত পিছানো যায় কি না।",
    ),
    (
        "Tamil",
        50,
        "துறைமுகத் தலைவர் வந்த ஒவ்வொரு கப்பலையும் எழுதி வைத்தார், நண்பகலுக்குள் பக்கம் நிரம்பியது. ஆய்வை வியாழக்கிழமைக்கு தள்ளிவைக்க முடியுமா என்று கேட்டார்.",
    ),
    (
        "Thai",
        59,
        "หัวหน้าท่าเรือจดชื่อเรือทุกลำที่เข้ามา และพอถึงเที่ยงหน้ากระดาษก็เต็ม เธอถามว่าเราจะเลื่อนการตรวจไปวันพฤหัสบดีได้ไหม เพราะเครนเสียอีกแล้ว",
    ),
    (
        "Chinese",
        47,
        "港务长记下了每一艘进港的船,到中午那一页就写满了。她问我们能不能把检查推迟到星期四,因为起重机又坏了。",
    ),
    (
        "Traditional Chinese",
        50,
        "港務長記下了每一艘進港的船,到中午那一頁就寫滿了。她問我們能不能把檢查延到星期四,因為起重機又壞了。",
    ),
    (
        "Japanese",
        54,
        "港長は入港する船をすべて書き留め、正午にはページがいっぱいになった。クレーンがまた壊れたので、点検を木曜日まで延期できるかと彼女は尋ねた。",
    ),
    (
        "Korean",
        53,
        "항만장은 들어오는 배를 모두 적어 두었고 정오가 되자 페이지가 가득 찼다. 크레인이 또 고장 나서 점검을 목요일로 미룰 수 있느냐고 그녀가 물었다.",
    ),
    (
        "Georgian",
        52,
        "პორტის უფროსი წერდა ყველა გემს, რომელიც შემოდიოდა, და შუადღისთვის გვერდი სავსე იყო. მან იკითხა, შეიძლება თუ არა შემოწმების გადადება ხუთშაბათამდე.",
    ),
    (
        "Armenian",
        52,
        "Նավահանգստի պետը գրի էր առնում ամեն ժամանող նավ, և կեսօրին էջը լիքն էր։ Նա հարցրեց՝ կարո՞ղ ենք ստուգումը հետաձգել մինչև հինգշաբթի։",
    ),
    ("Amharic", 159, "የወደቡ ኃላፊ የገባውን እያንዳንዱን መርከብ ጻፈች፣ እኩለ ቀን ላይም ገጹ ሞላ። ምርመራውን እስከ ሐሙስ ማዘግየት እንችል እንደሆነ ጠየቀች።"),
    (
        "Rust",
        77,
        "pub fn merge(&mut self, other: &Ledger) -> Result<usize, Error> {\n    for (id, row) in &other.rows {\n        if let Some(old) = self.rows.insert(*id, row.clone()) {\n            return Err(Error::Taken { id: *id, version: old.version });\n        }\n    }\n    Ok(other.rows.len())\n}",
    ),
    (
        "Python",
        77,
        "def weekly_totals(rows: list[dict]) -> dict[str, float]:\n    totals = defaultdict(float)\n    for row in rows:\n        if row.get(\"status\") != \"void\":\n            totals[row[\"week_id\"]] += float(row[\"amount\"]) * 1.19\n    return {k: round(v, 2) for k, v in totals.items()}",
    ),
    (
        "shell",
        62,
        "for f in ./logs/*.gz; do zcat \"$f\" | grep -E 'ERROR|FATAL' | awk '{print $1, $NF}' >> /tmp/errors.txt || exit 1; done && kubectl -n prod rollout restart deploy/ingest --timeout=90s",
    ),
    (
        "JSON",
        74,
        "{\"order\":{\"id\":\"A-10442\",\"placed_at\":\"2026-03-14T09:26:53Z\",\"lines\":[{\"sku\":\"RX-9\",\"qty\":3,\"price_cents\":1299},{\"sku\":\"QT-40-B\",\"qty\":1,\"price_cents\":24950}],\"paid\":true,\"note\":null}}",
    ),
    (
        "YAML",
        80,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: ledger-api\n  labels: {app: ledger, tier: backend}\nspec:\n  replicas: 3\n  template:\n    spec:\n      containers:\n        - name: api\n          image: \"example.org/ledger:2.14.1\"\n          ports: [{containerPort: 8080}]",
    ),
    (
        "log",
        75,
        "2026-03-14T09:26:53.589Z WARN [pool-7-thread-3] c.e.ledger.Retry - attempt 4/5 failed after 1532ms: java.net.SocketTimeoutException (10.42.0.17:6334) trace=7f3a9c01d2e84b55",
    ),
    (
        "identifiers",
        35,
        "userAccountBalanceUpdatedAt MAX_RETRY_ATTEMPTS get_or_create_session_by_external_id XMLHttpRequest parseUTF8BytesToString x86_64-unknown-linux-gnu",
    ),
    (
        "hexadecimal",
        79,
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 7f3a9c01-d2e8-4b55-9c1e-0a6b5d4e3f21",
    ),
    (
        "Base64",
        89,
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MjE3Iiwicm9sZSI6ImFnZW50In0.q3Wm8xZkT0vYbN5uRj7LhPdCsAeGfKoI1yU2wX9zBtE",
    ),
    (
        "URL",
        43,
        "https://shop.example.org/catalog/items/48213?ref=newsletter&utm_source=mail&page=2#reviews and ftp://files.example.net/pub/archive/2026/03/report-final_v2.tar.gz",
    ),
    (
        "numbers",
        69,
        "3.14159 2.71828 1,000,000 42 -17 99.95 12/31/2026 555-0142 08:15 1e-9 0x1F 73% 640x480 2.0.1 1234567890123456",
    ),
    (
        "table",
        53,
        "| port | ships | delay |\n| --- | ---: | ---: |\n| Odense | 14 | 0.5 h |\n| Gdynia | 122 | 3.25 h |\n| Setúbal | 7 | — |",
    ),
    (
        "markdown",
        51,
        "## Next steps\n\n1. **Call** the harbour (see [notes](./notes.md))\n2. _Postpone_ the inspection\n   - crane: `broken`\n   - until: Thursday\n\n> She said: \"not before noon\"",
    ),
    ("emoji", 44, "🚢🚢⚓️ full page by noon 😅 crane broken again 🏗️💥 inspection → Thursday? 🙏🏽 👩‍🔧 on her way 🇩🇰🎉"),
    ("symbols", 63, "∀x ∈ ℝ: x² ≥ 0; Σᵢ aᵢ·bᵢ ≤ ‖a‖·‖b‖ → ≈ 3.7 ± 0.2 µm ½ © ™ § ¶ † ★ ✓ ✗"),
    (
        "shouting",
        37,
        "PLEASE DO NOT POSTPONE THE INSPECTION AGAIN! THE CRANE MUST BE REPAIRED BEFORE THURSDAY NOON, NO EXCEPTIONS WHATSOEVER.",
    ),
    ("white space", 17, "one\n\n\ntwo\t\tthree      four\n        five\n\tsix   \n\n  seven"),
    (
        "punctuation",
        36,
        "Wait... what?! \"No\" -- she said -- 'never' (well, hardly ever); yes/no; [sic]: {a}, <b>; ----- ===== !!!! ....",
    ),
    (
        "mixed",
        35,
        "用户 reported that кнопка „Speichern\" では動かない on v2.3.1 — voir https://example.org/ünïcödé?q=ñ",
    ),
];
